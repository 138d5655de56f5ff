//! Where an agent signs in: a URL to which a password may go.

use std::net::IpAddr;

use reqwest::Url;

/// A URL to which credentials may go: https, or http to this machine.
///
/// # Errors
/// One line that says what is wrong with it.
pub fn parse(homeserver: &str) -> Result<Url, String> {
    let refuse = |why: &str| {
        format!("homeserver {homeserver:?} {why}: write a URL such as https://matrix.example.org")
    };
    if homeserver.contains('@') {
        // Not quoted: what stands before the @ may be a password.
        return Err("the homeserver's URL has an @ in it: leave the account out of it".into());
    }
    let url = Url::parse(homeserver).map_err(|_| refuse("is not a URL"))?;
    let host = url.host_str().ok_or_else(|| refuse("names no host"))?;
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(host) => {}
        "http" => {
            return Err(format!(
                "homeserver {homeserver:?} is plain http, on which the password or token could be read on the way: use https"
            ));
        }
        _ => return Err(refuse("is neither https nor http")),
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("has more in it than scheme, host, port and path"));
    }
    Ok(url)
}

fn is_loopback(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_https_and_to_this_machine_only() {
        for good in [
            "https://matrix.example.org",
            "https://matrix.example.org/",
            "https://example.org/behind/a/path",
            "http://localhost:8008",
            "http://127.0.0.1:8008/",
            "http://[::1]:8008",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://matrix.example.org",
            "http://10.0.0.1:8008",
            "http://localhost.example.org",
            "matrix.example.org",
            "example.org:8448",
            "ftp://example.org",
            "https://user:pw@example.org",
            "",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
