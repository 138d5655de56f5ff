-- Version 9: what deliveries learnt from outside (host/src/answers.rs), and what they were about, for as long as the settings
-- say after they have ended. Decrypted text stands here, too.

-- SHA-256 of the plugins that these are of, each once.
CREATE TABLE component (
    id     INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE
) STRICT;

-- A delivery that has learnt something, or that has ended and is kept.
CREATE TABLE record (
    row       INTEGER PRIMARY KEY AUTOINCREMENT,
    agent     INTEGER NOT NULL REFERENCES agent,
    delivery  TEXT NOT NULL,
    plugin    TEXT NOT NULL,
    event     TEXT NOT NULL,           -- its id
    component INTEGER NOT NULL REFERENCES component,
    begun     INTEGER NOT NULL,        -- milliseconds since 1970
    ended     INTEGER,                 -- the same; NULL: it goes on
    is_full   INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,        -- of all that is kept of it
    said      TEXT NOT NULL,           -- JSON
    UNIQUE (agent, delivery)
) STRICT;
CREATE INDEX record_of_event ON record (event);
CREATE INDEX record_of_component ON record (component);
CREATE INDEX record_ended ON record (ended, bytes) WHERE ended IS NOT NULL;

CREATE TABLE answer (
    record INTEGER NOT NULL REFERENCES record,
    key    BLOB NOT NULL,
    place  INTEGER NOT NULL,
    at     INTEGER NOT NULL,           -- milliseconds since 1970
    fact   TEXT NOT NULL,              -- JSON
    body   BLOB NOT NULL,
    UNIQUE (record, key)
) STRICT;
