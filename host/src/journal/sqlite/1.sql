-- Version 1 of the file. Text that is decrypted stands in `pending`, `unsent` and `kv` and nowhere else; a row of
-- the first two goes when its work is done, and what stays of it (`event`, `contribution`, `sent`) is small and only
-- grows at its end. So pages are used again, and nothing has to look past what is over.

CREATE TABLE agent (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    position    TEXT,
    home_room   TEXT,
    home_thread TEXT
) STRICT;

-- Every event that was ever received. AUTOINCREMENT, here and below: a number is never given twice, not even after
-- old rows were removed.
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    agent    INTEGER NOT NULL REFERENCES agent,
    id       TEXT NOT NULL,
    room     TEXT NOT NULL,
    session  TEXT NOT NULL,
    refused  TEXT,                     -- why it may not pass, as JSON; NULL: it may
    UNIQUE (agent, id)
) STRICT;

-- The events that have not ended, with all that they say.
CREATE TABLE pending (
    sequence INTEGER PRIMARY KEY REFERENCES event,
    agent    INTEGER NOT NULL REFERENCES agent,
    session  TEXT NOT NULL,
    event    TEXT NOT NULL             -- JSON
) STRICT;
CREATE INDEX pending_of_agent ON pending (agent);
CREATE INDEX pending_of_session ON pending (agent, session);

-- A room stays in this list: it was encrypted once.
CREATE TABLE encrypted_room (
    agent INTEGER NOT NULL REFERENCES agent,
    room  TEXT NOT NULL,
    PRIMARY KEY (agent, room)
) STRICT, WITHOUT ROWID;

-- What was committed: one row per delivery. Its number is the version of every value that it wrote.
CREATE TABLE contribution (
    row      INTEGER PRIMARY KEY AUTOINCREMENT,
    agent    INTEGER NOT NULL REFERENCES agent,
    delivery TEXT NOT NULL,
    event    INTEGER NOT NULL REFERENCES event,
    plugin   TEXT,                     -- NULL: the host
    outcome  TEXT NOT NULL,
    UNIQUE (agent, delivery)
) STRICT;
CREATE INDEX contribution_to_event ON contribution (event);

-- An effect is in `unsent` and then in `sent`, never in both.
CREATE TABLE unsent (
    row          INTEGER PRIMARY KEY AUTOINCREMENT,
    agent        INTEGER NOT NULL REFERENCES agent,
    contribution INTEGER NOT NULL REFERENCES contribution,
    ordinal      INTEGER NOT NULL,
    effect       TEXT NOT NULL         -- JSON
) STRICT;
CREATE INDEX unsent_of_agent ON unsent (agent);

CREATE TABLE sent (
    contribution INTEGER NOT NULL REFERENCES contribution,
    ordinal      INTEGER NOT NULL,
    event        TEXT,                 -- what it became; NULL: it was given up
    room         TEXT,                 -- where, if it is a plugin's message
    given_up     TEXT,                 -- why
    PRIMARY KEY (contribution, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX sent_message ON sent (event) WHERE room IS NOT NULL;

-- The newest message of each name.
CREATE TABLE named (
    agent  INTEGER NOT NULL REFERENCES agent,
    plugin TEXT NOT NULL,
    name   TEXT NOT NULL,
    row    INTEGER NOT NULL,           -- of the effect: newer is greater
    event  TEXT NOT NULL,
    room   TEXT NOT NULL,
    PRIMARY KEY (agent, plugin, name)
) STRICT, WITHOUT ROWID;

-- Drafts of deliveries that go on, or whose last effect will take the draft's place.
CREATE TABLE draft (
    agent    INTEGER NOT NULL REFERENCES agent,
    delivery TEXT NOT NULL,
    event    TEXT,                     -- NULL: it may have been sent
    PRIMARY KEY (agent, delivery)
) STRICT, WITHOUT ROWID;

-- Not WITHOUT ROWID: values are large, and a list of keys reads the index alone.
CREATE TABLE kv (
    agent   INTEGER NOT NULL REFERENCES agent,
    plugin  TEXT NOT NULL,
    scope   TEXT NOT NULL,             -- 'plugin', 'room:…', 'user:…' or 'session:…'
    key     TEXT NOT NULL,
    version INTEGER NOT NULL,          -- the row of the contribution that wrote it
    value   BLOB NOT NULL,
    UNIQUE (agent, plugin, scope, key)
) STRICT;
