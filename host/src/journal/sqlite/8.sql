-- Version 8: what is needed to say what became of an event, and what happened last: times, kinds and reasons, and no
-- words.

ALTER TABLE event ADD COLUMN received INTEGER;             -- milliseconds since 1970, here and below; NULL: before this
ALTER TABLE event ADD COLUMN again INTEGER NOT NULL DEFAULT 0;   -- how often it came again
ALTER TABLE contribution ADD COLUMN at INTEGER;
ALTER TABLE contribution ADD COLUMN line TEXT;             -- why it ended so; nothing that was said in an encrypted room
ALTER TABLE sent ADD COLUMN at INTEGER;
ALTER TABLE sent ADD COLUMN kind TEXT;                     -- the kind of effect: 'message', 'edit' and so on
ALTER TABLE sent ADD COLUMN target TEXT;                   -- a room, a person, or a timer's session
ALTER TABLE draft ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
UPDATE draft SET at = unixepoch() * 1000;

-- One row for each agent and kind of happening, so that it outlives the event's own.
CREATE TABLE last (
    agent INTEGER NOT NULL REFERENCES agent,
    what  TEXT NOT NULL,               -- 'accepted', 'dropped', 'acknowledged' or 'given-up'
    event TEXT,
    room  TEXT NOT NULL,
    at    INTEGER NOT NULL,
    why   TEXT,
    PRIMARY KEY (agent, what)
) STRICT, WITHOUT ROWID;

CREATE INDEX draft_by_age ON draft (agent, at);
CREATE INDEX named_by_age ON named (agent, plugin, row);
-- What the host said by itself.
CREATE INDEX event_own ON event (agent, sequence) WHERE room = '';
