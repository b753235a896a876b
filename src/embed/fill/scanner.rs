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
use lol_html::send::{Element, ElementContentHandlers, HtmlRewriter, Settings};
use lol_html::{AsciiCompatibleEncoding, HandlerResult, MemorySettings, OutputSink, Selector};

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
            RewritingError::ParsingAmbiguity(_) => {
                f.write_str("its markup is ambiguous, such as a <style> in a <select>")
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
                // The parser takes `<svg/>` for `<svg>`, and then a script for markup.
                lock(&notes).start_over = Some(element.source_location().bytes().end);
                return Err("an element that is not open".into());
            }
            if !element.can_have_content() {
                return Ok(());
            }
            lock(&notes).open.push(name);
            let notes = Arc::clone(&notes);
            element.on_end_tag(Box::new(move |end| {
                let open = &mut lock(&notes).open;
                // The end of an element around it does not end a template (HTML Standard, section 13.2.6.4.22).
                if end.name() == *name {
                    if let Some(place) = open.iter().rposition(|open| open == name) {
                        open.remove(place);
                    }
                }
                Ok(())
            }))
        };
        settings = settings.append_element_content_handler((
            Cow::Borrowed(selector),
            ElementContentHandlers::default().element(handler),
        ));
    }
    HtmlRewriter::new(settings, Progress(Arc::clone(notes)))
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
    let name = if element.tag_name() == "released-form" {
        "form-id"
    } else {
        "channel-id"
    };
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
            ("<svg><svg><div><noscript><p><released-form>", &[]),
            (
                "<select><svg></select><script>'<released-page>'</script>",
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
    }
}
