-- Version 7: events are forgotten when they are older than anything that is answered. What waits never is.

-- When it came, or when its server says that it was sent, whichever is later: milliseconds since 1970. NULL: it stays,
-- as what the host said by itself does, so that it is not said again.
ALTER TABLE event ADD COLUMN at INTEGER;
UPDATE event SET at = unixepoch() * 1000 WHERE room != '';
CREATE INDEX event_by_age ON event (agent, at) WHERE at IS NOT NULL;

-- Encrypted events whose key has not come, as they came.
CREATE TABLE locked (
    sequence INTEGER PRIMARY KEY REFERENCES event,
    agent    INTEGER NOT NULL REFERENCES agent,
    session  TEXT NOT NULL,
    event    TEXT NOT NULL             -- JSON
) STRICT;
CREATE INDEX locked_of_agent ON locked (agent);

-- The newest event of each room: where the agent stands there, should the server refuse its position. It outlives the
-- event's own row. The host's own events, timers that were due, are none of the room's.
CREATE TABLE newest (
    agent INTEGER NOT NULL REFERENCES agent,
    room  TEXT NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (agent, room)
) STRICT, WITHOUT ROWID;
INSERT INTO newest
SELECT agent, room, id FROM event
WHERE sequence IN (SELECT max(sequence) FROM event WHERE id NOT LIKE '-%' GROUP BY agent, room);
