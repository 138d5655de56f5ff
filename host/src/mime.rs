//! What a file is, as far as its first bytes show, and what it is sent as. Nothing here decodes one.

use crate::event::AttachmentKind;

/// Where a file says what it is.
const HEAD: usize = 8 * 1024;
/// A type and a subtype, each (RFC 6838, section 4.2).
const WORD: usize = 127;
/// What says nothing.
const BYTES: &str = "application/octet-stream";

/// What the first bytes show.
#[must_use]
pub fn shown(bytes: &[u8]) -> Option<&'static str> {
    infer::get(&bytes[..bytes.len().min(HEAD)]).map(|found| found.mime_type())
}

/// A declared media type, in lower case and without its parameters, if it is one.
#[must_use]
pub fn parse(declared: &str) -> Option<String> {
    let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let (kind, subtype) = essence.split_once('/')?;
    let is_word = |word: &str| {
        let char = |c: char| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c);
        word.len() <= WORD && word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(char)
    };
    (is_word(kind) && is_word(subtype)).then_some(essence)
}

/// What a file is sent as: what its bytes show, or else what is declared, where its bytes could not show that. What a
/// client could run is sent as bytes that say nothing.
#[must_use]
pub fn sent_as(bytes: &[u8], declared: Option<&str>) -> String {
    let plausible = |mime: &String| {
        let shows = ["image/", "audio/", "video/", "font/"].iter().any(|kind| mime.starts_with(kind));
        !shows && !infer::is_mime_supported(mime)
    };
    let mime = match shown(bytes) {
        Some(shown) => shown.to_owned(),
        None => declared.and_then(parse).filter(plausible).unwrap_or_else(|| BYTES.into()),
    };
    if runs(&mime) { BYTES.into() } else { mime }
}

/// Whether there are programs that run what such a file says, or show a page of it.
fn runs(mime: &str) -> bool {
    ["html", "script", "svg"].iter().any(|word| mime.contains(word))
        || mime.ends_with("xml")
        || ["multipart/", "message/"].iter().any(|kind| mime.starts_with(kind))
}

/// As what clients show a file of this type: a picture, sound or video where it is one that every browser knows and
/// that holds nothing else, and otherwise something to be saved. The list is Element's (`ALLOWED_BLOB_MIMETYPES`).
#[must_use]
pub fn kind(mime: &str) -> AttachmentKind {
    match mime {
        "image/jpeg" | "image/gif" | "image/png" | "image/apng" | "image/webp" | "image/avif" => {
            AttachmentKind::Image
        }
        "video/mp4" | "video/webm" | "video/ogg" | "video/quicktime" => AttachmentKind::Video,
        "audio/mp4" | "audio/m4a" | "audio/webm" | "audio/aac" | "audio/mpeg" | "audio/ogg"
        | "audio/wave" | "audio/wav" | "audio/x-wav" | "audio/x-pn-wav" | "audio/flac" | "audio/x-flac" => {
            AttachmentKind::Audio
        }
        _ => AttachmentKind::File,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

    #[test]
    fn a_file_is_what_its_first_bytes_show() {
        assert_eq!(shown(PNG), Some("image/png"));
        assert_eq!(shown(b"%PDF-1.7"), Some("application/pdf"));
        assert_eq!(shown(b"just words"), None);
        assert_eq!(shown(b""), None);
    }

    #[test]
    fn a_type_is_two_words() {
        assert_eq!(parse("Text/CSV; charset=utf-8").as_deref(), Some("text/csv"));
        let long = format!("text/{}", "x".repeat(128));
        for wrong in
            ["", "text", "/csv", "text/", "text/a b", "text/a/b", "te\u{e9}t/a", "text/\u{202e}a", &long]
        {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_is_declared_counts_where_the_bytes_show_nothing() {
        let words = b"one,two\n";
        for (bytes, declared, sent) in [
            (&words[..], Some("text/csv; charset=utf-8"), "text/csv"),
            (words, Some("application/json"), "application/json"),
            (words, None, BYTES),
            (words, Some("nonsense"), BYTES),
            (PNG, Some("text/plain"), "image/png"),
            // Its bytes would show it, if it were one.
            (words, Some("image/png"), BYTES),
            (words, Some("image/new"), BYTES),
            (words, Some("application/pdf"), BYTES),
            // What a client could run.
            (b"<svg onload=alert(1)>", Some("image/svg+xml"), BYTES),
            (b"<!DOCTYPE html><script>alert(1)</script>", None, BYTES),
            (b"<?xml version=\"1.0\"?><a/>", None, BYTES),
            (words, Some("application/xhtml+xml"), BYTES),
            (words, Some("Text/HTML"), BYTES),
            (words, Some("text/javascript"), BYTES),
            (words, Some("message/rfc822"), BYTES),
            (b"#!/bin/sh\n", Some("text/plain"), BYTES),
        ] {
            assert_eq!(sent_as(bytes, declared), sent, "{declared:?}");
        }
    }

    #[test]
    fn only_what_is_harmless_is_shown_at_once() {
        assert_eq!(kind("image/png"), AttachmentKind::Image);
        assert_eq!(kind("audio/ogg"), AttachmentKind::Audio);
        assert_eq!(kind("video/mp4"), AttachmentKind::Video);
        for other in ["image/svg+xml", "image/tiff", "text/html", "application/pdf", BYTES] {
            assert_eq!(kind(other), AttachmentKind::File, "{other}");
        }
    }

    proptest! {
        /// Whatever somebody sends, behind whatever it begins with, and whatever is said of it.
        #[test]
        fn no_file_is_too_strange_to_be_looked_at(
            head in prop::sample::select(vec![
                &b""[..], b"PK\x03\x04", b"\x1aE\xdf\xa3", b"RIFF", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"\0\0\0\x18ftyp",
                b"\x7fELF", b"ID3", b"MZ", b"<!DOCTYPE", b"\0\0\0\x0cjP", b"SQLite format 3", b"<svg", b"#!/bin/sh",
            ]),
            rest in prop::collection::vec(any::<u8>(), 0..600),
            declared in ".{0,40}|[a-z]{1,8}/[a-z+.-]{1,20}|image/svg\\+xml|text/html.{0,9}",
        ) {
            let bytes = [head, &rest].concat();
            for end in 0..bytes.len().min(64) {
                let _ = shown(&bytes[..end]);
            }
            let sent = sent_as(&bytes, Some(&declared));
            prop_assert_eq!(parse(&sent), Some(sent.clone()));
            prop_assert!(!runs(&sent));
            let shows = kind(&sent) != AttachmentKind::File;
            prop_assert!(!shows || shown(&bytes) == Some(sent.as_str()));
        }
    }
}
