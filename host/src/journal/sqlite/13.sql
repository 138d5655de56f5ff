-- Version 13: less is written for each event.

-- What happened last stands with the agent, whose row each batch writes: {event, room, at, why} as JSON.
ALTER TABLE agent ADD COLUMN accepted TEXT;
ALTER TABLE agent ADD COLUMN dropped TEXT;
ALTER TABLE agent ADD COLUMN acknowledged TEXT;
ALTER TABLE agent ADD COLUMN given_up TEXT;
UPDATE agent SET (accepted, dropped, acknowledged, given_up) =
    (SELECT max(json) FILTER (WHERE what = 'accepted'), max(json) FILTER (WHERE what = 'dropped'),
            max(json) FILTER (WHERE what = 'acknowledged'), max(json) FILTER (WHERE what = 'given-up')
     FROM (SELECT what, json_object('event', event, 'room', room, 'at', at, 'why', why) AS json
           FROM last WHERE last.agent = agent.id));
DROP TABLE last;

-- Of the records, only those that have not ended are looked for one by one.
CREATE TABLE new_record (
    row       INTEGER PRIMARY KEY AUTOINCREMENT,
    agent     INTEGER NOT NULL REFERENCES agent,
    delivery  TEXT NOT NULL,
    plugin    TEXT NOT NULL,
    event     TEXT NOT NULL,           -- its id
    component INTEGER NOT NULL,        -- REFERENCES component, which would look at all records
    begun     INTEGER NOT NULL,        -- milliseconds since 1970
    ended     INTEGER,                 -- the same; NULL: it goes on
    is_full   INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,        -- of all that is kept of it
    said      TEXT NOT NULL            -- JSON
) STRICT;
INSERT INTO new_record SELECT row, agent, delivery, plugin, event, component, begun, ended, is_full, bytes, said FROM record;
UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = 'record') WHERE name = 'new_record';
DROP TABLE record;
ALTER TABLE new_record RENAME TO record;
CREATE UNIQUE INDEX record_open ON record (agent, delivery) WHERE ended IS NULL;
CREATE INDEX record_open_of_event ON record (event) WHERE ended IS NULL;
CREATE INDEX record_ended ON record (ended, bytes, component) WHERE ended IS NOT NULL;

-- An effect's number is made of its contribution's, so that those of one contribution are found by it. Nothing refers to the contribution:
-- whatever waits is kept with it.
CREATE TABLE new_unsent (
    row          INTEGER PRIMARY KEY,  -- the contribution << 16 | its place among what that has to send
    contribution INTEGER NOT NULL AS (row >> 16),
    agent        INTEGER NOT NULL REFERENCES agent,
    ordinal      INTEGER NOT NULL,
    plugin       TEXT,                 -- whose tool; NULL: as the contribution says
    staged       TEXT,                 -- where its file was uploaded to; NULL: it was not, or nobody heard of it
    effect       TEXT NOT NULL         -- JSON
) STRICT;
UPDATE named SET row = coalesce(
    (SELECT max(sent.contribution) << 16 | 65535 FROM sent JOIN contribution ON contribution.row = sent.contribution
     WHERE sent.event = named.event AND contribution.agent = named.agent), row);
INSERT INTO new_unsent (row, agent, ordinal, plugin, staged, effect)
SELECT contribution << 16 | (row_number() OVER (PARTITION BY contribution ORDER BY row) - 1),
       agent, ordinal, plugin, staged, effect
FROM unsent;
DROP TABLE unsent;
ALTER TABLE new_unsent RENAME TO unsent;
