-- Version 10: how the versions of each plugin stand, and what the one on trial has replaced in `kv`
-- and of timers, until it has ended.

CREATE TABLE plugin_version (
    plugin           TEXT PRIMARY KEY,
    accepted         TEXT,             -- SHA-256 of the file whose memory this is
    accepted_version TEXT,
    trial            TEXT,             -- of the one on trial
    trial_version    TEXT,
    used             INTEGER NOT NULL, -- the one on trial has done something that was committed
    moved            INTEGER NOT NULL, -- the newest of these has moved what is remembered
    rejected         TEXT              -- of the one that was rolled back last
) STRICT, WITHOUT ROWID;

CREATE TABLE kv_replaced (
    agent   INTEGER NOT NULL REFERENCES agent,
    plugin  TEXT NOT NULL,
    scope   TEXT NOT NULL,
    key     TEXT NOT NULL,
    version INTEGER,                   -- NULL: there was nothing
    value   BLOB,
    UNIQUE (agent, plugin, scope, key)
) STRICT;
CREATE INDEX kv_replaced_of_plugin ON kv_replaced (plugin);

CREATE TABLE timer_replaced (
    agent   INTEGER NOT NULL REFERENCES agent,
    plugin  TEXT NOT NULL,
    session TEXT NOT NULL,
    key     TEXT NOT NULL,
    next    INTEGER,                   -- NULL: there was none
    timer   TEXT,
    UNIQUE (agent, plugin, session, key)
) STRICT;
CREATE INDEX timer_replaced_of_plugin ON timer_replaced (plugin);
