-- Version 13: less is written for each event.

-- How far numbers have come, in one row: none is given twice, not even those of what is forgotten.
CREATE TABLE reached (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    event        INTEGER NOT NULL,     -- the greatest number, when something was forgotten last
    contribution INTEGER NOT NULL,     -- the same; what versions move takes numbers from here, too
    newest       INTEGER NOT NULL      -- `newest` has the events up to this one
) STRICT;
INSERT INTO reached SELECT 1, event, contribution, event FROM (SELECT
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0) AS event,
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'contribution'), 0) AS contribution);

-- Every event that was received, until it is forgotten.
CREATE TABLE new_event (
    sequence INTEGER PRIMARY KEY,
    agent    INTEGER NOT NULL REFERENCES agent,
    id       TEXT NOT NULL,
    room     TEXT NOT NULL,
    session  TEXT NOT NULL,
    refused  TEXT,                     -- why it may not pass, as JSON; NULL: it may
    at       INTEGER,                  -- the later of when it came and when its server says that it was sent: milliseconds
                                       -- since 1970; NULL: it stays, so that the host does not say it again
    received INTEGER,                  -- when it came; NULL: before version 8
    again    INTEGER NOT NULL DEFAULT 0,  -- how often it came again
    UNIQUE (agent, id)
) STRICT;
INSERT INTO new_event SELECT sequence, agent, id, room, session, refused, at, received, again FROM event;
DROP TABLE event;
ALTER TABLE new_event RENAME TO event;
CREATE INDEX event_by_age ON event (agent, at) WHERE at IS NOT NULL;
-- What the host said by itself.
CREATE INDEX event_own ON event (agent, sequence) WHERE room = '';

-- What was committed: one row per delivery. Its number is the version of every value that it wrote.
CREATE TABLE new_contribution (
    row      INTEGER PRIMARY KEY,
    agent    INTEGER NOT NULL REFERENCES agent,
    delivery TEXT NOT NULL,
    event    INTEGER NOT NULL REFERENCES event,
    plugin   TEXT,                     -- NULL: the host
    outcome  TEXT NOT NULL,
    at       INTEGER,                  -- milliseconds since 1970
    line     TEXT,                     -- why it ended so; nothing that was said in an encrypted room
    UNIQUE (agent, delivery)
) STRICT;
INSERT INTO new_contribution SELECT row, agent, delivery, event, plugin, outcome, at, line FROM contribution;
DROP TABLE contribution;
ALTER TABLE new_contribution RENAME TO contribution;
CREATE INDEX contribution_to_event ON contribution (event);

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
    row       INTEGER PRIMARY KEY,
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
    (SELECT max(sent.contribution) << 16 FROM sent JOIN contribution ON contribution.row = sent.contribution
     WHERE sent.event = named.event AND contribution.agent = named.agent), row);
INSERT INTO new_unsent (row, agent, ordinal, plugin, staged, effect)
SELECT contribution << 16 | row_number() OVER (PARTITION BY contribution ORDER BY row),
       agent, ordinal, plugin, staged, effect
FROM unsent;
DROP TABLE unsent;
ALTER TABLE new_unsent RENAME TO unsent;
