//! Synapse's settings for tests: open registration, cheap passwords, no federation, nothing limited unless asked.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Options, SERVER_NAME};

/// Writes `homeserver.yaml` and what it refers to into `folder`. JSON is YAML.
pub fn write(folder: &Path, port: u16, options: &Options) -> Result<()> {
    // A signing key that nobody will ever check: this server federates with none.
    fs::write(folder.join("signing.key"), format!("ed25519 a_test {}\n", "A".repeat(43)))?;
    fs::write(folder.join("log.yaml"), log(folder).to_string())?;
    fs::write(folder.join("homeserver.yaml"), settings(folder, port, options).to_string())?;
    Ok(())
}

/// Synapse ignores keys that it does not know, so a wrong one is silent.
fn settings(folder: &Path, port: u16, options: &Options) -> Value {
    let mut settings = json!({
        "server_name": SERVER_NAME,
        "public_baseurl": format!("http://127.0.0.1:{port}/"),
        "pid_file": folder.join("synapse.pid"),
        "signing_key_path": folder.join("signing.key"),
        "log_config": folder.join("log.yaml"),
        "media_store_path": folder.join("media"),
        "database": { "name": "sqlite3", "args": { "database": folder.join("homeserver.db") } },
        "listeners": [{
            "port": port, "type": "http", "tls": false, "x_forwarded": false, "bind_addresses": ["127.0.0.1"],
            "resources": [{ "names": ["client"], "compress": false }],
        }],
        "macaroon_secret_key": "test-macaroon",
        "form_secret": "test-form",
        "enable_registration": true,
        "enable_registration_without_verification": true,
        "bcrypt_rounds": 4,
        "soft_file_limit": 0,
        "report_stats": false,
        "federation_domain_whitelist": [],
        "trusted_key_servers": [],
        "suppress_key_server_warning": true,
        "send_federation": false,
        "presence": { "enabled": false },
        "url_preview_enabled": false,
        "user_directory": { "enabled": false },
        "enable_room_list_search": false,
        "allow_public_rooms_without_auth": false,
        "push": { "enabled": false },
        "encryption_enabled_by_default_for_room_type": "off",
        "max_event_delay_duration": "24h",
    });
    if let Some(timeline) = options.timeline {
        settings["filter_timeline_limit"] = timeline.into();
    }
    if let Some(life) = options.token_life {
        settings["refreshable_access_token_lifetime"] = life.into();
    }
    for (limit, rate) in limits(options).as_object().into_iter().flatten() {
        settings[limit] = rate.clone();
    }
    settings
}

fn limits(options: &Options) -> Value {
    let never = json!({ "per_second": 100_000, "burst_count": 100_000 });
    let messages = match options.message_rate {
        Some((per_second, burst)) => json!({ "per_second": per_second, "burst_count": burst }),
        None => never.clone(),
    };
    json!({
        "rc_message": messages,
        "rc_registration": never,
        "rc_registration_token_validity": never,
        "rc_login": { "address": never, "account": never, "failed_attempts": never },
        "rc_admin_redaction": never,
        "rc_joins": { "local": never, "remote": never },
        "rc_joins_per_room": never,
        "rc_3pid_validation": never,
        "rc_invites": { "per_room": never, "per_user": never, "per_issuer": never },
        "rc_third_party_invite": never,
        "rc_media_create": never,
        "rc_key_requests": never,
        "rc_presence": { "per_user": never },
        "rc_delayed_event_mgmt": never,
        "rc_room_creation": never,
        "rc_reports": never,
        "rc_profile": never,
        "rc_user_directory": never,
    })
}

/// INFO, as servers run it: a text that must occur nowhere has more places to occur in.
fn log(folder: &Path) -> Value {
    json!({
        "version": 1,
        "formatters": { "line": { "format": "%(asctime)s %(levelname)s %(name)s %(message)s" } },
        "handlers": {
            "file": {
                "class": "logging.FileHandler", "formatter": "line", "encoding": "utf8",
                "filename": folder.join("homeserver.log"),
            },
        },
        "root": { "level": "INFO", "handlers": ["file"] },
        "disable_existing_loggers": false,
    })
}
