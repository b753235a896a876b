//! Follows images and formulas (`<svg>`, `<math>`), in which browsers parse by other rules.
//!
//! `lol_html` has no tree, so it knows less than a browser about where HTML begins and ends in an image, and so about
//! what is text. Markup that misleads it could put a token into the value of an attribute. So this reads every tag, text
//! and comment of an image, and stops the parser where the two may disagree.

use std::ops::Range;

use lol_html::HandlerResult;
use lol_html::html_content::TextType;
use lol_html::send::Element;
use tower::BoxError;

/// What a handler says to stop the parser. Nobody reads it.
pub(super) const AMBIGUOUS: &str = "ambiguous markup";

/// Parts of an image that hold HTML, and those of a formula (HTML Standard, section 13.2.6, "integration point").
const HOLD_HTML: [&[&str]; 2] = [
    &["desc", "title", "foreignobject"],
    &["mi", "mo", "mn", "ms", "mtext"],
];

/// Elements that hold text in HTML, whatever it looks like. In an image, a title and a style do not.
const HOLD_TEXT: [&str; 10] = [
    "title",
    "style",
    "script",
    "textarea",
    "noscript",
    "iframe",
    "xmp",
    "noembed",
    "noframes",
    "plaintext",
];

/// Elements that end the image or formula that they are directly in (HTML Standard, section 13.2.6.5).
const END_FOREIGN: [&str; 44] = [
    "b",
    "big",
    "blockquote",
    "body",
    "br",
    "center",
    "code",
    "dd",
    "div",
    "dl",
    "dt",
    "em",
    "embed",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "hr",
    "i",
    "img",
    "li",
    "listing",
    "menu",
    "meta",
    "nobr",
    "ol",
    "p",
    "pre",
    "ruby",
    "s",
    "small",
    "span",
    "strike",
    "strong",
    "sub",
    "sup",
    "table",
    "tt",
    "u",
    "ul",
    "var",
];

/// Elements of HTML that can end an image around them, or that are ignored in some places and not in others.
const MOVE_HTML: [&str; 13] = [
    "caption",
    "col",
    "colgroup",
    "malignmark",
    "mglyph",
    "select",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "tr",
];

/// The attributes with which a `<font>` ends an image.
const OF_HTML_FONT: [&str; 3] = ["color", "face", "size"];

/// The parser does not say where the first bytes of a character are that two chunks cut in half. No end tag is as short.
const CUT: usize = 3;

const CDATA: usize = "<![CDATA[".len();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Image,
    Formula,
}

/// An element that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// `<svg>` or `<math>`.
    Root(Kind),
    /// An element that holds no HTML.
    Inner(Kind),
    /// An element that holds HTML.
    HoldsHtml,
    /// An element of HTML in one of these.
    Html,
}

/// Which elements are open in which nothing is filled.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    /// How many templates are open. They come before all parts, because there is none in an image.
    templates: usize,
    /// The open elements of an image or a formula, which is the first of them.
    parts: Vec<Part>,
    /// Where the last tag, text or comment ends.
    end: usize,
    /// A browser may not be in the image: an end tag came that ends nothing known, or it never entered it.
    may_have_left: bool,
}

impl Foreign {
    pub(super) fn is_empty(&self) -> bool {
        self.templates == 0 && self.parts.is_empty()
    }

    pub(super) fn templates(&self) -> usize {
        self.templates
    }

    pub(super) fn is_in_part(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Reads the start tag of a `<select>`.
    pub(super) fn open_select(&self) -> HandlerResult {
        check(self.parts.is_empty())
    }

    pub(super) fn open_template(&mut self) -> HandlerResult {
        check(self.parts.is_empty())?;
        self.templates += 1;
        Ok(())
    }

    pub(super) fn close_template(&mut self) {
        self.templates = self.templates.saturating_sub(1);
    }

    /// Reads a start tag. Returns the element if it has an end tag.
    pub(super) fn open_part(
        &mut self,
        place: &Range<usize>,
        name: &str,
        element: &Element<'_, '_>,
        in_select: bool,
    ) -> Result<Option<Part>, BoxError> {
        if self.parts.is_empty() {
            self.end = place.start;
            // Some browsers ignore an image in a `<select>`.
            self.may_have_left = in_select;
        }
        self.read(place, CUT)?;
        let part = self.part(name, element).ok_or(AMBIGUOUS)?;
        if !element.can_have_content() {
            return Ok(None);
        }
        self.parts.push(part);
        Ok(Some(part))
    }

    /// Reads an end tag, which is this part's own or that of an element around it.
    pub(super) fn close_part(
        &mut self,
        place: &Range<usize>,
        part: Part,
        is_its_own: bool,
    ) -> HandlerResult {
        self.read(place, CUT)?;
        let is_closed = is_its_own || matches!(part, Part::Inner(_));
        check(self.parts.pop() == Some(part) && is_closed)
    }

    pub(super) fn read_text(&mut self, place: &Range<usize>, kind: TextType) -> HandlerResult {
        if kind != TextType::CDataSection {
            return self.read(place, CUT);
        }
        self.read(place, CUT + CDATA)?;
        check(!self.is_in_html() && !self.may_have_left)
    }

    pub(super) fn read_comment(&mut self, place: &Range<usize>, text: &str) -> HandlerResult {
        self.read(place, CUT)?;
        // A browser may know that this is text, which does not end with its first `>`.
        check(!text.starts_with("[CDATA["))
    }

    /// Reads on. What is not reported is an end tag that ends nothing: no handler is told of it.
    fn read(&mut self, place: &Range<usize>, unreported: usize) -> HandlerResult {
        if place.start > self.end + unreported {
            // In HTML, the parser takes the end of any part that holds HTML for the end of this one.
            check(!self.is_in_html())?;
            self.may_have_left = true;
        }
        self.end = self.end.max(place.end);
        Ok(())
    }

    fn is_in_html(&self) -> bool {
        matches!(self.parts.last(), Some(Part::HoldsHtml | Part::Html))
    }

    /// Returns what a start tag opens. `None` if that is not certain.
    fn part(&self, name: &str, element: &Element<'_, '_>) -> Option<Part> {
        let root = match name {
            "svg" => Some(Kind::Image),
            "math" => Some(Kind::Formula),
            _ => None,
        };
        let kind = match self.parts.last() {
            None => return root.map(Part::Root),
            Some(Part::HoldsHtml | Part::Html) => {
                // The parser takes the end of an element with such a name for the end of the part that holds it.
                let ends_part =
                    name == "annotation-xml" || HOLD_HTML.iter().any(|names| names.contains(&name));
                let is_ambiguous = ends_part
                    || HOLD_TEXT.contains(&name)
                    || MOVE_HTML.contains(&name)
                    || (root.is_some() && element.is_self_closing());
                return (!is_ambiguous).then(|| root.map_or(Part::Html, Part::Root));
            }
            Some(Part::Root(kind) | Part::Inner(kind)) => *kind,
        };
        if END_FOREIGN.contains(&name) {
            return None;
        }
        if name == "font" && OF_HTML_FONT.iter().any(|name| element.has_attribute(name)) {
            return None;
        }
        if root.is_some() {
            // A formula in an image is a part of the image, and the other way round.
            let is_certain =
                root == Some(kind) && !element.is_self_closing() && !self.may_have_left;
            return is_certain.then_some(Part::Root(kind));
        }
        if HOLD_HTML[kind as usize].contains(&name) {
            return (!self.may_have_left).then_some(Part::HoldsHtml);
        }
        if HOLD_TEXT.contains(&name) && (self.may_have_left || !matches!(name, "title" | "style")) {
            return None;
        }
        // The parser compares the encoding without its character references.
        if name == "annotation-xml"
            && element
                .get_attribute("encoding")
                .is_some_and(|encoding| encoding.contains('&'))
        {
            return None;
        }
        let namespace = match kind {
            Kind::Image => "http://www.w3.org/2000/svg",
            Kind::Formula => "http://www.w3.org/1998/Math/MathML",
        };
        (element.namespace_uri() == namespace).then_some(Part::Inner(kind))
    }
}

fn check(is_certain: bool) -> HandlerResult {
    if is_certain {
        Ok(())
    } else {
        Err(AMBIGUOUS.into())
    }
}
