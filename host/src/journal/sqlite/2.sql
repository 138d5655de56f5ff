-- Version 2: how much each plugin remembers, kept with every write, so that a quota costs no look at all of it.

CREATE TABLE kv_usage (
    agent  INTEGER NOT NULL REFERENCES agent,
    plugin TEXT NOT NULL,
    bytes  INTEGER NOT NULL,           -- of keys and values
    keys   INTEGER NOT NULL,
    PRIMARY KEY (agent, plugin)
) STRICT, WITHOUT ROWID;

INSERT INTO kv_usage
SELECT agent, plugin, sum(octet_length(key) + octet_length(value)), count(*) FROM kv GROUP BY agent, plugin;

CREATE TRIGGER kv_inserted AFTER INSERT ON kv BEGIN
    INSERT INTO kv_usage VALUES (new.agent, new.plugin, octet_length(new.key) + octet_length(new.value), 1)
    ON CONFLICT (agent, plugin) DO UPDATE SET bytes = bytes + excluded.bytes, keys = keys + 1;
END;

CREATE TRIGGER kv_updated AFTER UPDATE ON kv BEGIN
    UPDATE kv_usage SET bytes = bytes + octet_length(new.value) - octet_length(old.value)
    WHERE agent = new.agent AND plugin = new.plugin;
END;

CREATE TRIGGER kv_deleted AFTER DELETE ON kv BEGIN
    UPDATE kv_usage SET bytes = bytes - octet_length(old.key) - octet_length(old.value), keys = keys - 1
    WHERE agent = old.agent AND plugin = old.plugin;
END;
