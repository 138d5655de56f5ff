-- Version 6: timers. One that is due becomes an event, in `event` and `pending`, in the same transaction that moves it on.

CREATE TABLE timer (
    row     INTEGER PRIMARY KEY,
    agent   INTEGER NOT NULL REFERENCES agent,
    plugin  TEXT NOT NULL,
    session TEXT NOT NULL,
    key     TEXT NOT NULL,
    next    INTEGER NOT NULL,          -- milliseconds since 1970
    timer   TEXT NOT NULL,             -- JSON, with all that it says
    UNIQUE (agent, plugin, session, key)
) STRICT;
CREATE INDEX timer_due ON timer (agent, plugin, next);
