//! From CommonMark to what a message carries: the text as it was written, and HTML with nothing in it but the
//! tags and attributes that the Matrix specification lets through for `org.matrix.custom.html` (client-server
//! API, `m.room.message`). Pure.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, HashSet},
};

use ammonia::{Builder, UrlRelative};
use html5ever::{
    tendril::StrTendril,
    tokenizer::{BufferQueue, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts},
};
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

use crate::text::hidden;

/// The tags that the specification suggests to permit.
pub(crate) const TAGS: [&str; 37] = [
    "del",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "blockquote",
    "p",
    "a",
    "ul",
    "ol",
    "sup",
    "sub",
    "li",
    "b",
    "i",
    "u",
    "strong",
    "em",
    "s",
    "code",
    "hr",
    "br",
    "div",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "caption",
    "pre",
    "span",
    "img",
    "details",
    "summary",
];

/// The specification's attributes, per tag.
pub(crate) const ATTRIBUTES: [(&str, &[&str]); 6] = [
    ("span", &["data-mx-bg-color", "data-mx-color", "data-mx-spoiler", "data-mx-maths"]),
    ("a", &["target", "href"]),
    ("img", &["width", "height", "alt", "title", "src"]),
    ("ol", &["start"]),
    ("code", &["class"]),
    ("div", &["data-mx-maths"]),
];

/// Where a link may lead.
const SCHEMES: [&str; 4] = ["http", "https", "mailto", "matrix"];

/// What is opened again where it was left open; of `a` there is one at most.
const REPEATED: [&str; 13] =
    ["b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"];
/// What ends where the next one of its kind begins, or has nothing in it.
const ENDS_BY_ITSELF: [&str; 11] =
    ["p", "li", "td", "th", "tr", "thead", "tbody", "caption", "br", "hr", "img"];
/// What has nothing in it.
const EMPTY: [&str; 3] = ["br", "hr", "img"];

/// So many elements a text may become: many times those of a message that is meant to be read, and some ten megabytes.
const COST: usize = 200_000;
/// Bytes of HTML that are looked at, more than any message holds; and what of a text makes so many: columns of a table
/// are there in each of its rows.
const LARGEST: usize = 128 * 1024;
const EVENTS: usize = 64 * 1024;

/// The specification asks that clients refuse more than 100 levels; a text nested deeper goes without HTML.
const DEPTH: usize = 90;

/// A message's two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text as it was written.
    pub body: String,
    /// `org.matrix.custom.html`; none where it would say no more than the text.
    pub html: Option<String>,
}

/// Renders CommonMark, with tables and strikethrough. A line's end stays one, as people expect in a chat.
#[must_use]
pub fn markdown(text: &str) -> Rendered {
    let body = text.to_owned();
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    let mut depth = 0_usize;
    let mut deepest = 0_usize;
    let mut plain = true;
    let mut paragraphs = 0_usize;
    let mut images = Vec::new();
    let mut events = Vec::new();
    for event in Parser::new_ext(text, options) {
        match &event {
            Event::Start(tag) => {
                depth += 1;
                deepest = deepest.max(depth);
                match tag {
                    Tag::Paragraph => paragraphs += 1,
                    _ => plain = false,
                }
            }
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::Text(_) | Event::SoftBreak => {}
            _ => plain = false,
        }
        if events.len() > EVENTS {
            return Rendered { body, html: None };
        }
        events.push(match event {
            Event::SoftBreak => Event::HardBreak,
            Event::Html(raw) | Event::InlineHtml(raw) if !is_permitted(&raw) => Event::Text(raw),
            // A picture that is not on a Matrix server would be taken out: its address is more than nothing.
            Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
                let is_mxc = dest_url.starts_with("mxc://");
                images.push(is_mxc);
                if is_mxc {
                    Event::Start(Tag::Image { link_type, dest_url, title, id })
                } else {
                    Event::Start(Tag::Link { link_type, dest_url, title: CowStr::Borrowed(""), id })
                }
            }
            Event::End(TagEnd::Image) if images.pop() == Some(false) => Event::End(TagEnd::Link),
            other => other,
        });
    }
    if (plain && paragraphs <= 1) || deepest > DEPTH {
        return Rendered { body, html: None };
    }
    let mut rendered = String::new();
    html::push_html(&mut rendered, events.into_iter());
    Rendered { body, html: sanitize(rendered.trim_end()) }
}

/// Takes out all that the specification does not permit. None where nobody should read it: too long, too much work, or
/// nested too deep for clients.
#[must_use]
pub fn sanitize(html: &str) -> Option<String> {
    if html.len() > LARGEST || !is_modest(html) {
        return None;
    }
    let clean = cleaner().attribute_filter(attribute).clean(html).to_string();
    (depth(&clean) <= DEPTH).then_some(clean)
}

/// Whether a text becomes a tree that is not much larger than it is long, nor much deeper than clients take. What is left
/// open is there again in each block that follows (HTML standard, "reconstruct the active formatting elements"), three
/// times where it is the same.
fn is_modest(html: &str) -> bool {
    let tags = Cell::new(0_usize);
    let repeated = RefCell::new(BTreeMap::<_, usize>::new());
    let open = RefCell::new(BTreeMap::<_, usize>::new());
    let (now, deepest) = (Cell::new(0_usize), Cell::new(0));
    each_tag(html, |tag| {
        tags.set(tags.get() + 1);
        let mut open = open.borrow_mut();
        let same_name = open.entry(tag.name.to_string()).or_default();
        if tag.kind == TagKind::EndTag {
            now.set(now.get() - usize::from(*same_name > 0));
            *same_name = same_name.saturating_sub(1);
            return;
        }
        if !ENDS_BY_ITSELF.contains(&&*tag.name) {
            *same_name += 1;
            now.set(now.get() + 1);
            deepest.set(deepest.get().max(now.get()));
        }
        if REPEATED.contains(&&*tag.name) {
            *repeated.borrow_mut().entry((tag.name.to_string(), tag.attrs)).or_default() += 1;
        }
    });
    let repeated: usize = repeated.borrow().values().map(|same| same.min(&3)).sum();
    tags.get().saturating_mul(repeated) <= COST && deepest.get() <= 2 * DEPTH
}

/// How deep the elements of clean HTML are.
fn depth(html: &str) -> usize {
    let (now, deepest) = (Cell::new(0_usize), Cell::new(0));
    each_tag(html, |tag| match tag.kind {
        TagKind::StartTag if EMPTY.contains(&&*tag.name) => {}
        TagKind::StartTag => {
            now.set(now.get() + 1);
            deepest.set(deepest.get().max(now.get()));
        }
        TagKind::EndTag => now.set(now.get().saturating_sub(1)),
    });
    deepest.get()
}

/// Where the links of somebody else's HTML lead, entities decoded. Only its tags are looked at: what they make of it
/// together costs more than it is long.
#[must_use]
pub fn links(html: &str) -> Vec<String> {
    let found = RefCell::new(Vec::new());
    each_tag(html, |tag| {
        if tag.kind == TagKind::StartTag && &*tag.name == "a" {
            let to = tag.attrs.iter().find(|attribute| &*attribute.name.local == "href");
            let to = to.map(|attribute| attribute.value.to_string());
            let scheme = |to: &String| {
                let scheme = to.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
                scheme.is_some_and(|scheme| SCHEMES.contains(&scheme.as_str()))
            };
            found.borrow_mut().extend(to.filter(scheme));
        }
    });
    found.into_inner()
}

/// Looks at each tag of a text, as it is written.
fn each_tag(html: &str, look: impl Fn(html5ever::tokenizer::Tag)) {
    struct Tags<F>(F);
    impl<F: Fn(html5ever::tokenizer::Tag)> TokenSink for Tags<F> {
        type Handle = ();

        fn process_token(&self, token: Token, _: u64) -> TokenSinkResult<()> {
            if let Token::TagToken(tag) = token {
                (self.0)(tag);
            }
            TokenSinkResult::Continue
        }
    }
    let tokenizer = Tokenizer::new(Tags(look), TokenizerOpts::default());
    let input = BufferQueue::default();
    input.push_back(StrTendril::from_slice(html));
    let _ = tokenizer.feed(&input);
    tokenizer.end();
}

fn cleaner() -> Builder<'static> {
    let mut cleaner = Builder::empty();
    cleaner
        .tags(HashSet::from(TAGS))
        .clean_content_tags(HashSet::from(["script", "style"]))
        .tag_attributes(
            ATTRIBUTES
                .iter()
                .map(|(tag, names)| (*tag, names.iter().copied().collect()))
                .collect::<HashMap<_, _>>(),
        )
        .generic_attributes(HashSet::new())
        .url_schemes(SCHEMES.into_iter().chain(["mxc"]).collect())
        .url_relative(UrlRelative::Deny)
        .link_rel(None);
    cleaner
}

/// What an attribute's value may be, beyond its name.
fn attribute<'u>(tag: &str, name: &str, value: &'u str) -> Option<Cow<'u, str>> {
    let allowed = match (tag, name) {
        ("img", "src") => value.starts_with("mxc://"),
        // What browsers skip over is not always what others do.
        ("a", "href") => {
            !value.contains(hidden) && !value.trim_start().to_ascii_lowercase().starts_with("mxc:")
        }
        ("code", "class") => value.starts_with("language-") && !value.contains(char::is_whitespace),
        _ => true,
    };
    allowed.then_some(Cow::Borrowed(value))
}

/// Whether a piece of raw HTML begins with a tag that is let through. What is not is shown as it was written,
/// so that `Vec<String>` and a model's `<answer>` don't vanish.
fn is_permitted(raw: &str) -> bool {
    let raw = raw.trim_start();
    let Some(tag) = raw.strip_prefix('<') else { return false };
    let tag = tag.strip_prefix('/').unwrap_or(tag);
    let end = tag.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(tag.len());
    TAGS.contains(&tag[..end].to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(text: &str) -> String {
        markdown(text).html.unwrap_or_default()
    }

    #[test]
    fn plain_text_needs_no_html() {
        for text in ["hello", "a < b & c", "two\nlines", ""] {
            assert_eq!(markdown(text), Rendered { body: text.into(), html: None }, "{text:?}");
        }
    }

    #[test]
    fn markdown_becomes_what_clients_show() {
        for (text, shown) in [
            ("**bold** _it_ ~~no~~", "<p><strong>bold</strong> <em>it</em> <del>no</del></p>"),
            ("a **b**\nc", "<p>a <strong>b</strong><br>\nc</p>"),
            ("one\n\ntwo", "<p>one</p>\n<p>two</p>"),
            ("`a<b>`", "<p><code>a&lt;b&gt;</code></p>"),
            ("```rust\nfn x() {}\n```", "<pre><code class=\"language-rust\">fn x() {}\n</code></pre>"),
            ("3. c\n4. d", "<ol start=\"3\">\n<li>c</li>\n<li>d</li>\n</ol>"),
            ("[x](https://e.org/?a=1&b=2)", "<p><a href=\"https://e.org/?a=1&amp;b=2\">x</a></p>"),
            ("[A](https://matrix.to/#/@a:hs)", "<p><a href=\"https://matrix.to/#/@a:hs\">A</a></p>"),
            ("![cat](https://e.org/c.png)", "<p><a href=\"https://e.org/c.png\">cat</a></p>"),
            ("![cat](mxc://hs/1)", "<p><img src=\"mxc://hs/1\" alt=\"cat\"></p>"),
            ("<u>so</u> **x**", "<p><u>so</u> <strong>x</strong></p>"),
        ] {
            assert_eq!(html(text), shown, "{text:?}");
            assert_eq!(markdown(text).body, text);
        }
    }

    #[test]
    fn what_could_do_harm_is_gone_and_what_was_meant_as_text_stays() {
        for (text, shown) in [
            ("**x** [a](javascript:alert(1))", "<p><strong>x</strong> <a>a</a></p>"),
            ("**x** [a](data:text/html,x)", "<p><strong>x</strong> <a>a</a></p>"),
            ("**x** [a](/relative)", "<p><strong>x</strong> <a>a</a></p>"),
            ("**x** <a href=\"\u{1}https://e.org\">a</a>", "<p><strong>x</strong> <a>a</a></p>"),
            ("**x** [a](mxc://hs/1)", "<p><strong>x</strong> <a>a</a></p>"),
            ("**x** Vec<String>", "<p><strong>x</strong> Vec&lt;String&gt;</p>"),
            (
                "**x** <script>alert(1)</script>",
                "<p><strong>x</strong> &lt;script&gt;alert(1)&lt;/script&gt;</p>",
            ),
            ("**x** <b onclick=\"y()\" style=\"a\">z", "<p><strong>x</strong> <b>z</b></p>"),
            ("<div><script>alert(1)</script>ok</div>", "<div>ok</div>"),
            ("[a](https://e.org \"t\")", "<p><a href=\"https://e.org\">a</a></p>"),
            ("<u lang=x title=y>so</u> **x**", "<p><u>so</u> <strong>x</strong></p>"),
            ("**x** <img src=\"https://e.org/track\">", "<p><strong>x</strong> <img></p>"),
        ] {
            assert_eq!(html(text), shown, "{text:?}");
        }
        assert_eq!(markdown(&">".repeat(2000)).html, None, "nested too deep for clients");
        assert_eq!(markdown(&"<div>".repeat(2000)).html, None, "and so is this");
        let many = "- **x** `y` _z_ <b>w</b> [v](https://e.org)\n".repeat(600);
        assert!(html(&many).len() > many.len(), "a long text has its looks");
    }

    /// What is left open is opened again in each block: 30 KiB would be millions of elements.
    #[test]
    fn what_is_left_open_is_not_multiplied() {
        let open: String =
            (0..1000).flat_map(|number| ["<b x=".into(), number.to_string(), ">".into()]).collect();
        let text = format!("{open}{}", "<p>x".repeat(4000));
        assert_eq!(markdown(&text).html, None);
        // Those that are there three times at most are few.
        let same = format!("**x** {}{}", "<b>".repeat(20), "<p>x".repeat(400));
        assert!((same.len()..20 * same.len()).contains(&html(&same).len()));
        let table = format!("{}\n{}\n{}", "|a".repeat(1000), "|-".repeat(1000), "|b\n".repeat(9000));
        assert_eq!(markdown(&table).html, None);
        let links = format!("{open}{}<a href=https://e.org>", "<p>x".repeat(10_000));
        assert_eq!(super::links(&links), ["https://e.org"]);
    }

    #[test]
    fn links_of_strangers_are_found_whatever_they_look_like() {
        assert_eq!(
            links("<A HREF='https://e.org/?a&amp;b'>x</A><a href=\"matrix:u/b:hs\">"),
            ["https://e.org/?a&b", "matrix:u/b:hs"]
        );
        assert_eq!(links("<a href=\"javascript:x\">"), Vec::<String>::new());
        assert_eq!(links("< a href=https://e.org"), Vec::<String>::new());
    }
}
