-- Version 5: files that wait to be sent, and where each was uploaded to before its message is: the keys are in it where
-- it is encrypted. Both go with the effect.

CREATE TABLE blob (
    contribution INTEGER NOT NULL REFERENCES contribution,
    agent        INTEGER NOT NULL REFERENCES agent,
    plugin       TEXT,                 -- whose; NULL: the host's
    digest       TEXT NOT NULL,
    bytes        BLOB NOT NULL,
    UNIQUE (contribution, digest)
) STRICT;
CREATE INDEX blob_of_plugin ON blob (agent, plugin);

ALTER TABLE unsent ADD COLUMN staged TEXT;      -- NULL: it was not uploaded, or nobody heard of it
ALTER TABLE sent ADD COLUMN file INTEGER NOT NULL DEFAULT 0;   -- 1: the message is a file
ALTER TABLE named ADD COLUMN file INTEGER NOT NULL DEFAULT 0;
