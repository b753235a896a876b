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
use lol_html::html_content::{Comment, TextChunk};
use lol_html::send::{Element, ElementContentHandlers, HtmlRewriter, Settings};
use lol_html::{AsciiCompatibleEncoding, HandlerResult, MemorySettings, OutputSink, Selector};

use super::foreign::{AMBIGUOUS, Foreign};
use crate::embed::id_attribute;

/// How much memory the parser of one page may take: for a tag that is cut into pieces, and about 150 bytes for each
/// element that is open. Pages of long lists leave thousands of `<li>` open.
const MEMORY: usize = 1 << 20;

/// Large enough for most tags that two chunks cut in half.
const BUFFER: usize = 256;

static ELEMENTS: LazyLock<[Selector; 3]> =
    LazyLock::new(|| ["released-page", "released-widget", "released-form"].map(selector));

/// Images, formulas, and everything in them.
static FOREIGN: LazyLock<Selector> = LazyLock::new(|| selector("svg, math, svg *, math *"));

static TEMPLATE: LazyLock<Selector> = LazyLock::new(|| selector("template"));

static SELECT: LazyLock<Selector> = LazyLock::new(|| selector("select"));

/// How many templates can be open where another parser starts. It has to read their tags, for every `<svg/>` again.
const TEMPLATES: usize = 8;

/// Elements after which browsers ignore the tags of elements that hold text. The parser does not.
static IGNORES_TAGS: LazyLock<Selector> = LazyLock::new(|| selector("frameset, template > col"));

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
    /// Which elements are open in which nothing is filled.
    foreign: Foreign,
    /// A `<select>` may be open. There, some browsers ignore images and formulas.
    in_select: bool,
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
            let open = "<template>".repeat(mem::take(&mut notes.foreign).templates());
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
            if notes.foreign.is_empty() && is_wanted(element, ids.as_deref()) {
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
    let [on_template, on_select, on_part, on_text, on_comment] =
        std::array::from_fn(|_| Arc::clone(notes));
    let handlers = [
        (
            &*TEMPLATE,
            ElementContentHandlers::default()
                .element(move |element: &mut Element<'_, '_>| open_template(&on_template, element)),
        ),
        (
            &*SELECT,
            ElementContentHandlers::default()
                .element(move |element: &mut Element<'_, '_>| open_select(&on_select, element)),
        ),
        (
            &*IGNORES_TAGS,
            ElementContentHandlers::default()
                .element(|_: &mut Element<'_, '_>| Err(AMBIGUOUS.into())),
        ),
        (
            &*FOREIGN,
            ElementContentHandlers::default()
                .element(move |element: &mut Element<'_, '_>| open_part(&on_part, element))
                .text(move |text: &mut TextChunk<'_>| read_text(&on_text, text))
                .comments(move |comment: &mut Comment<'_>| {
                    lock(&on_comment)
                        .foreign
                        .read_comment(&comment.source_location().bytes(), &comment.text())
                }),
        ),
    ];
    for (selector, handlers) in handlers {
        settings = settings.append_element_content_handler((Cow::Borrowed(selector), handlers));
    }
    HtmlRewriter::new(settings, Progress(Arc::clone(notes)))
}

fn open_template(notes: &Arc<Mutex<Notes>>, element: &mut Element<'_, '_>) -> HandlerResult {
    lock(notes).foreign.open_template()?;
    let notes = Arc::clone(notes);
    element.on_end_tag(Box::new(move |end| {
        // The end of an element around it does not end a template (HTML Standard, section 13.2.6.4.22).
        if end.name() == "template" {
            lock(&notes).foreign.close_template();
        }
        Ok(())
    }))
}

fn open_select(notes: &Arc<Mutex<Notes>>, element: &mut Element<'_, '_>) -> HandlerResult {
    {
        let mut notes = lock(notes);
        notes.foreign.open_select()?;
        notes.in_select = true;
    }
    let notes = Arc::clone(notes);
    element.on_end_tag(Box::new(move |end| {
        if end.name() == "select" {
            lock(&notes).in_select = false;
        }
        Ok(())
    }))
}

/// Reads a tag of an image or of a formula, or one in it.
fn open_part(notes: &Arc<Mutex<Notes>>, element: &mut Element<'_, '_>) -> HandlerResult {
    let name = element.tag_name();
    let part = {
        let mut notes = lock(notes);
        let place = element.source_location().bytes();
        let in_select = notes.in_select;
        if element.is_self_closing() && !notes.foreign.is_in_part() {
            // The parser takes `<svg/>` for `<svg>`, and then a script for markup. Another parser can start after it.
            if !in_select && notes.foreign.templates() <= TEMPLATES {
                notes.start_over = Some(place.end);
            }
            return Err(AMBIGUOUS.into());
        }
        notes.foreign.open_part(&place, &name, element, in_select)?
    };
    let Some(part) = part else { return Ok(()) };
    let notes = Arc::clone(notes);
    element.on_end_tag(Box::new(move |end| {
        let is_its_own = end.name() == name;
        lock(&notes)
            .foreign
            .close_part(&end.source_location().bytes(), part, is_its_own)
    }))
}

/// Reads text in an image or in a formula.
fn read_text(notes: &Arc<Mutex<Notes>>, text: &mut TextChunk<'_>) -> HandlerResult {
    let place = text.source_location().bytes();
    // The parser would encode it anew: bytes that are no character would get another length.
    text.remove();
    let mut notes = lock(notes);
    notes.read = place.end;
    notes.foreign.read_text(&place, text.text_type())
}

fn selector(name: &str) -> Selector {
    name.parse().expect("the name of an element is a selector")
}

/// Counts what the parser would write. It changes nothing but the text that `read_text` counts, so that is as long as
/// what it read.
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
            scanner
                .read(piece)
                .unwrap_or_else(|error| panic!("{html} in pieces of {length}: {error}"));
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
                "<svg><title>A <b>title</b> é漢😀</title><style>a{}</style><desc/><g><path d=''></g></svg>\
                 <math><mi>x</mi><mo>y</mo></math><svg><svg><title></title></svg></svg><released-form>",
                &["released-form"],
            ),
            (
                "<svg><STYLE><![CDATA[é漢 > a{}]]></style><path/><foreignObject><div><svg><desc>漢</desc></svg>\
                 <br/>a</div></foreignObject></svg><released-form>",
                &["released-form"],
            ),
            (
                "<math><semantics><annotation-xml encoding=MathML-Content><ci>a</ci></annotation-xml><mtext>漢\
                 </mtext></semantics></math><released-form>",
                &["released-form"],
            ),
            (
                "<select><option><svg><path/></svg></select><svg><title></title></svg><svg/><released-form>",
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
            // A browser parses what follows as text, or as the value of an attribute.
            "<svg><title></desc></p></title><title><a href='</title></svg><released-page>'>",
            "<svg><title><x></desc><![CDATA[><style>]]></x></title></svg><released-page></style>",
            "<svg><desc><b></desc><style></svg><released-page></style>",
            "<svg><desc><desc/></desc><desc/></desc><style></svg><released-page></style>",
            "<svg><math><mi><p></p></mi></math><style></svg><released-page></style>",
            "<svg><svg></p></svg><title></svg><released-page></title>",
            "<svg><foreignObject><b></foreignObject></svg></b><![CDATA[><released-page>]]>",
            "<td><svg><desc><tr></tr></desc><title><style></title></svg><released-page></style>",
            "<math><annotation-xml encoding='text&#47;html'><x><![CDATA[><style>]]></x></annotation-xml></math>\
             <released-page></style>",
            "<math><mi><mglyph><style></mglyph></mi></math><released-page></style>",
            "<select><svg><![CDATA[><script>]]></svg></select><released-page></script>",
            "<select><svg/><xmp><script>'</xmp><released-page>'</script>",
            "<template><col><style><!--</style></template><released-page>-->",
            &format!("{}<svg/><released-page>", "<template>".repeat(3000)),
            "<frameset><svg><![CDATA[><noframes>]]></svg><released-page></noframes>",
            "<select><svg></select><script>'<released-page>'</script>",
        ] {
            let mut scanner = Scanner::new(encoding_rs::UTF_8, None);
            assert!(scanner.read(html.as_bytes()).is_err(), "{html}");
        }
        let cdata = "<svg><![CDATA[></svg><released-page>]]></svg><![CDATA[><released-form>";
        assert_eq!(found(cdata, cdata.len()), ["released-form"]);
    }

    #[test]
    fn the_bytes_of_images_are_counted_in_every_encoding() {
        let encodings = [
            encoding_rs::UTF_8,
            encoding_rs::SHIFT_JIS,
            encoding_rs::GB18030,
            encoding_rs::WINDOWS_1252,
        ];
        for html in [
            &b"<svg><text>\xff\xff\x81 \xe9</text><title>\xe6\xbc\xa2\xff</title></svg><released-page>"[..],
            b"<svg><style>a\xe9</style><![CDATA[\xff\xff\x87\x90]]></svg><released-page>",
            b"<svg><!-- \xff\xff --><g a='\xff'></g \xff></svg><released-page>",
            b"<math><mi>\xf0\x9f\x98\x80\xf0\x9f</mi><mtext>\xe6\xbc</mtext></math><released-page>",
        ] {
            for encoding in encodings {
                for length in 1..=html.len() {
                    let mut scanner = Scanner::new(encoding, None);
                    let mut given = 0;
                    for piece in html.chunks(length) {
                        scanner.read(piece).expect("readable");
                        given += piece.len();
                        assert!(scanner.position() <= given, "{encoding:?}");
                    }
                    assert_eq!(scanner.position(), html.len(), "{encoding:?}");
                    let mut places = Vec::new();
                    scanner.take_found(&mut places);
                    assert_eq!(places, [html.len() - 1], "{encoding:?}");
                }
            }
        }
    }
}
