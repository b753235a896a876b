//! Finds Released's elements in HTML that comes in pieces.
//!
//! `lol_html` is used to look, not to write: it says at which byte a start tag begins, and, by what it would write, how
//! far it has read. The page itself never goes through it. So its errors cost no bytes, and the token is needed only
//! when the page is sent, not when the parser finds the element.

use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use encoding_rs::Encoding;
use lol_html::errors::RewritingError;
use lol_html::html_content::Comment;
use lol_html::send::{Element, ElementContentHandlers, HtmlRewriter, Settings};
use lol_html::{AsciiCompatibleEncoding, HandlerResult, MemorySettings, OutputSink, Selector};

use crate::embed::id_attribute;

/// How much memory the parser of one page may take: for a tag that is cut into pieces, and about 150 bytes for each
/// element that is open. Pages of long lists leave thousands of `<li>` open.
const MEMORY: usize = 1 << 20;

/// Large enough for most tags that two chunks cut in half.
const BUFFER: usize = 256;

static ELEMENTS: LazyLock<[Selector; 3]> =
    LazyLock::new(|| ["released-page", "released-widget", "released-form"].map(selector));

/// Elements in which nothing is filled. What is in a template is not in the page. An image or a formula holds no embed,
/// and that is where browsers and the parser disagree about markup that is not well-formed.
static CLOSED: LazyLock<[(&str, Selector); 3]> =
    LazyLock::new(|| ["template", "svg", "math"].map(|name| (name, selector(name))));

static FOREIGN: LazyLock<[Selector; 2]> = LazyLock::new(|| ["svg *", "math *"].map(selector));

/// Elements of images and formulas that may hold HTML (HTML Standard, section 13.2.6, "integration point").
const HOLD_HTML: [&str; 9] = [
    "desc",
    "title",
    "foreignobject",
    "mi",
    "mo",
    "mn",
    "ms",
    "mtext",
    "annotation-xml",
];

/// Elements of HTML that hold text, whatever it looks like.
const HOLD_TEXT: [&str; 10] = [
    "script",
    "style",
    "title",
    "textarea",
    "noscript",
    "iframe",
    "xmp",
    "noembed",
    "noframes",
    "plaintext",
];

/// What a handler says to stop the parser. Nobody reads it.
const AMBIGUOUS: &str = "ambiguous markup";

/// Attributes of elements that have a token, or get one in the browser.
const FILLED: [&str; 2] = ["auth-token", "data-released-auth"];

/// Reads a page, and notes where a token goes.
pub(super) struct Scanner {
    // The lock makes it `Sync`, because some servers' bodies must be. It is never locked.
    parser: Mutex<Parser>,
    notes: Arc<Mutex<Notes>>,
    encoding: AsciiCompatibleEncoding,
    ids: Option<Arc<[String]>>,
    /// How many bytes were given to the parser, or to the parsers before it.
    given: usize,
    /// What the parser calls its first byte, in the page. It wraps: see `start_over`.
    base: usize,
}

type Parser = HtmlRewriter<'static, Progress>;

/// What the parser says while it reads.
#[derive(Debug, Default)]
struct Notes {
    /// How far the parser has read, from where it began.
    read: usize,
    /// Where a token goes.
    found: Vec<usize>,
    /// Which of the elements are open in which nothing is filled.
    open: Vec<&'static str>,
    /// Where another parser has to start, after an element that this one takes for open.
    start_over: Option<usize>,
}

impl Notes {
    /// Returns whether an image or a formula is open.
    fn is_in_foreign(&self) -> bool {
        self.open.iter().any(|name| *name != "template")
    }

    /// Notes that an element is open, until its end tag comes.
    fn open(
        notes: &Arc<Mutex<Self>>,
        element: &mut Element<'_, '_>,
        name: &'static str,
    ) -> HandlerResult {
        if !element.can_have_content() {
            return Ok(());
        }
        lock(notes).open.push(name);
        let notes = Arc::clone(notes);
        element.on_end_tag(Box::new(move |end| {
            let open = &mut lock(&notes).open;
            let is_its_own = end.name() == name;
            if name == "template" {
                // The end of an element around it does not end a template (HTML Standard, section 13.2.6.4.22).
                if let Some(place) = open.iter().rposition(|open| is_its_own && *open == name) {
                    open.remove(place);
                }
            } else if !is_its_own || open.pop() != Some(name) {
                return Err(AMBIGUOUS.into());
            }
            Ok(())
        }))
    }
}

impl Scanner {
    pub(super) fn new(encoding: &'static Encoding, ids: Option<Arc<[String]>>) -> Self {
        let encoding =
            AsciiCompatibleEncoding::new(encoding).unwrap_or_else(AsciiCompatibleEncoding::utf_8);
        let notes = Arc::<Mutex<Notes>>::default();
        Self {
            parser: Mutex::new(parser(encoding, ids.as_ref(), &notes)),
            notes,
            encoding,
            ids,
            given: 0,
            base: 0,
        }
    }

    /// Reads on. Afterwards it must not be used again if it could not.
    pub(super) fn read(&mut self, html: &[u8]) -> Result<(), Unreadable> {
        let end = self.given + html.len();
        let mut rest = html;
        while let Err(error) = self.parser().write(rest) {
            let Some(place) = lock(&self.notes).start_over.take() else {
                return Err(Unreadable(error));
            };
            let place = self.base.wrapping_add(place);
            self.start_over(place).map_err(Unreadable)?;
            rest = &html[html.len() - (end - place)..];
        }
        self.given = end;
        Ok(())
    }

    /// Goes on with another parser, which must know what is open.
    fn start_over(&mut self, place: usize) -> Result<(), RewritingError> {
        let open = {
            let mut notes = lock(&self.notes);
            let open = mem::take(&mut notes.open);
            let open: String = open.iter().flat_map(|name| ["<", name, ">"]).collect();
            let before = mem::replace(&mut self.base, place.wrapping_sub(open.len()));
            for found in &mut notes.found {
                *found = before.wrapping_add(*found).wrapping_sub(self.base);
            }
            notes.read = 0;
            open
        };
        self.parser = Mutex::new(parser(self.encoding, self.ids.as_ref(), &self.notes));
        self.parser().write(open.as_bytes())
    }

    /// Returns how many bytes of the page were read to their end: no token goes before these that was not found.
    pub(super) fn position(&self) -> usize {
        self.base.wrapping_add(lock(&self.notes).read)
    }

    /// Adds the places of tokens that were found since the last call.
    pub(super) fn take_found(&mut self, places: &mut impl Extend<usize>) {
        let base = self.base;
        let mut notes = lock(&self.notes);
        places.extend(notes.found.drain(..).map(|place| base.wrapping_add(place)));
    }

    fn parser(&mut self) -> &mut Parser {
        self.parser
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a page cannot be read on.
#[derive(Debug)]
pub(super) struct Unreadable(RewritingError);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            RewritingError::MemoryLimitExceeded(_) => {
                f.write_str("it needs more than 1 MiB of memory to be read")
            }
            // Our own handlers return an error for markup of this kind.
            RewritingError::ParsingAmbiguity(_) | RewritingError::ContentHandlerError(_) => {
                f.write_str("its markup is ambiguous, such as a <style> in a <select> or a <script> in an <svg>")
            }
            _ => f.write_str("the parser failed"),
        }
    }
}

fn parser(
    encoding: AsciiCompatibleEncoding,
    ids: Option<&Arc<[String]>>,
    notes: &Arc<Mutex<Notes>>,
) -> Parser {
    let memory = MemorySettings::new()
        .with_preallocated_parsing_buffer_size(BUFFER)
        .with_max_allowed_memory_usage(MEMORY);
    let mut settings = Settings::new_send()
        .with_encoding(encoding)
        .with_memory_settings(memory)
        // If browsers disagree about what is text, a token could end up in a script or in an attribute's value.
        .with_strict(true)
        .with_enable_esi_tags(false)
        .with_adjust_charset_on_meta_tag(false);
    for selector in &*ELEMENTS {
        let (notes, ids) = (Arc::clone(notes), ids.cloned());
        let handler = move |element: &mut Element<'_, '_>| -> HandlerResult {
            let mut notes = lock(&notes);
            if notes.open.is_empty() && is_wanted(element, ids.as_deref()) {
                let tag = element.start_tag();
                // After the `<` and the name: there, an attribute is always legal.
                let place = tag.source_location().bytes().start + 1 + tag.name().len();
                notes.found.push(place);
            }
            Ok(())
        };
        settings = settings.append_element_content_handler((
            Cow::Borrowed(selector),
            ElementContentHandlers::default().element(handler),
        ));
    }
    for (name, selector) in &*CLOSED {
        let notes = Arc::clone(notes);
        let handler = move |element: &mut Element<'_, '_>| -> HandlerResult {
            if *name != "template" && element.is_self_closing() {
                // The parser takes `<svg/>` for `<svg>`, and then a script for markup. Another parser can start after it.
                // In an image that is open, the other parser would have to know more than we do.
                let mut notes = lock(&notes);
                if !notes.is_in_foreign() {
                    notes.start_over = Some(element.source_location().bytes().end);
                }
                return Err(AMBIGUOUS.into());
            }
            Notes::open(&notes, element, name)
        };
        settings = settings.append_element_content_handler((
            Cow::Borrowed(selector),
            ElementContentHandlers::default().element(handler),
        ));
    }
    for selector in &*FOREIGN {
        let notes = Arc::clone(notes);
        let handler = move |element: &mut Element<'_, '_>| look_into(&notes, element);
        settings = settings.append_element_content_handler((
            Cow::Borrowed(selector),
            ElementContentHandlers::default()
                .element(handler)
                .comments(look_at),
        ));
    }
    HtmlRewriter::new(settings, Progress(Arc::clone(notes)))
}

/// Looks at a comment in an image or in a formula. In their titles, the parser takes `<![CDATA[..]]>` for a comment, which
/// ends with its first `>`. A browser does not, so what follows may be text.
fn look_at(comment: &mut Comment<'_>) -> HandlerResult {
    if comment.text().starts_with("[CDATA[") {
        return Err(AMBIGUOUS.into());
    }
    Ok(())
}

/// Looks at an element in an image or in a formula. There, the parser knows less than a browser about where HTML begins
/// and ends, and so about what is text. It reads on only while both must agree.
fn look_into(notes: &Arc<Mutex<Notes>>, element: &mut Element<'_, '_>) -> HandlerResult {
    let name = element.tag_name();
    if CLOSED.iter().any(|(closed, _)| *closed == name) {
        return Ok(());
    }
    let holds_html = HOLD_HTML.iter().find(|known| **known == name);
    let is_ambiguous = {
        let notes = lock(notes);
        let is_directly_inside = matches!(notes.open.last(), Some(&("svg" | "math")));
        let has_left = is_directly_inside
            && holds_html.is_none()
            && element.namespace_uri() == "http://www.w3.org/1999/xhtml";
        // The title and the styles of an image are not text.
        let is_part = matches!(&*name, "title" | "style")
            && is_directly_inside
            && notes
                .open
                .iter()
                .filter(|name| **name != "template")
                .count()
                == 1;
        has_left || HOLD_TEXT.contains(&&*name) && !is_part
    };
    if is_ambiguous {
        return Err(AMBIGUOUS.into());
    }
    holds_html.map_or(Ok(()), |name| Notes::open(notes, element, name))
}

fn selector(name: &str) -> Selector {
    name.parse().expect("the name of an element is a selector")
}

/// Counts what the parser would write. It changes nothing, so that is as long as what it read.
struct Progress(Arc<Mutex<Notes>>);

impl OutputSink for Progress {
    fn handle_chunk(&mut self, chunk: &[u8]) {
        lock(&self.0).read += chunk.len();
    }
}

fn is_wanted(element: &Element<'_, '_>, ids: Option<&[String]>) -> bool {
    if FILLED.iter().any(|name| element.has_attribute(name)) {
        return false;
    }
    let Some(ids) = ids else { return true };
    let name = id_attribute(&element.tag_name());
    element
        .get_attribute(name)
        .is_some_and(|id| ids.contains(&id))
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the names before which tokens go, when the page comes in pieces of this length.
    fn found(html: &str, length: usize) -> Vec<&str> {
        let mut scanner = Scanner::new(encoding_rs::UTF_8, None);
        let mut places = Vec::new();
        for piece in html.as_bytes().chunks(length) {
            scanner.read(piece).expect("readable");
            scanner.take_found(&mut places);
        }
        assert!(scanner.position() <= html.len());
        let name = |place: &usize| html[..*place].rsplit('<').next().expect("a tag");
        places.iter().map(name).collect()
    }

    #[test]
    fn only_elements_of_the_page_are_found_wherever_it_is_cut() {
        for (html, expected) in [
            ("<released-page>", &["released-page"][..]),
            ("<p><RELEASED-Widget x></p>", &["RELEASED-Widget"]),
            ("<released-pages><released-pag><released-badge>", &[]),
            ("<released-page", &[]),
            (
                "<script>'<released-page>'</script><released-form/>",
                &["released-form"],
            ),
            (
                "<template><div></template><released-form>",
                &["released-form"],
            ),
            ("<div><template></div><released-form></template>", &[]),
            (
                "<template><template></template><released-form></template>",
                &[],
            ),
            // The parser's own view of these is different.
            (
                "<svg/><script>'<released-page>'</script><released-form>",
                &["released-form"],
            ),
            (
                "<math a='/>' /><title><released-page></title><released-form>",
                &["released-form"],
            ),
            (
                "<released-page><svg/><svg/><released-form>",
                &["released-page", "released-form"],
            ),
            (
                "<template><svg/><released-page></template><released-form>",
                &["released-form"],
            ),
            (
                "<svg><released-page></svg><released-form>",
                &["released-form"],
            ),
            (
                "<svg><title>A <b>title</title><style>a{}</style><desc/><g><path d=''></g></svg>\
                 <math><mi>x<mo>y</mo></mi></math><svg><svg></svg></svg><released-form>",
                &["released-form"],
            ),
            (
                "<template><svg><title></title></svg><released-page></template>",
                &[],
            ),
        ] {
            for length in 1..=html.len() {
                assert_eq!(
                    found(html, length),
                    expected,
                    "{html} in pieces of {length}"
                );
            }
        }
    }

    #[test]
    fn what_browsers_disagree_about_is_not_read() {
        let mut scanner = Scanner::new(encoding_rs::UTF_8, None);
        let result = scanner.read(b"<released-page><select><xmp><a title='<released-form>'>");
        assert!(matches!(
            result,
            Err(Unreadable(RewritingError::ParsingAmbiguity(_)))
        ));
        let mut places = Vec::new();
        scanner.take_found(&mut places);
        assert_eq!(places, [14]);

        for html in [
            "<math><mi><![CDATA[></math><released-page>",
            "<svg><desc><![CDATA[></svg><released-page>",
            "<svg><p><svg/><script>'<released-page>'</script>",
            "<svg><foreignObject></title><noscript></svg><released-page>",
            "<svg><svg></p><script>'</svg><released-page>'</script>",
            "<p><svg></p><released-page>",
            "<svg><desc></svg><released-page>",
            "<select><svg></select><script>'<released-page>'</script>",
        ] {
            let mut scanner = Scanner::new(encoding_rs::UTF_8, None);
            assert!(scanner.read(html.as_bytes()).is_err(), "{html}");
        }
        let cdata = "<svg><![CDATA[></svg><released-page>]]></svg><![CDATA[><released-form>";
        assert_eq!(found(cdata, cdata.len()), ["released-form"]);
    }
}
