-- Version 12: in which shape each version of a plugin reads and writes what is remembered.

CREATE TABLE plugin_shape (
    plugin TEXT NOT NULL,
    digest TEXT NOT NULL,    -- SHA-256 of the version's file
    shape  INTEGER NOT NULL, -- one that moves what is remembered has another than those before it
    PRIMARY KEY (plugin, digest)
) STRICT, WITHOUT ROWID;

INSERT INTO plugin_shape SELECT plugin, accepted, 0 FROM plugin_version WHERE accepted IS NOT NULL;
INSERT OR REPLACE INTO plugin_shape
    SELECT plugin, trial, moved FROM plugin_version WHERE trial IS NOT NULL;
ALTER TABLE plugin_version DROP COLUMN moved;
