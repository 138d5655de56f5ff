-- Version 4: the audit record. Each entry carries the hash of the one before and its own fields (host/src/audit.rs),
-- so that one that was removed or changed is found, and the head is noted beside, so that a missing end is.

CREATE TABLE audit (
    number     INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,       -- milliseconds since 1970
    agent      TEXT,
    plugin     TEXT,
    what       TEXT NOT NULL,
    permission TEXT,
    detail     TEXT NOT NULL,
    count      INTEGER NOT NULL,
    hash       BLOB NOT NULL
) STRICT;

CREATE TABLE audit_head (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    count INTEGER NOT NULL,
    hash  BLOB NOT NULL
) STRICT;
INSERT INTO audit_head VALUES (1, 0, zeroblob(32));

-- Against mistakes of ours: who means to change it drops these first, and is found by the hashes.
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN
    SELECT raise(ABORT, 'the audit record only grows');
END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit BEGIN
    SELECT raise(ABORT, 'the audit record only grows');
END;
