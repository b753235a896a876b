//! Attributes: the enums of their values, and how they are written.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// An HTML element: its name and its attributes, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    name: &'static str,
    attributes: Vec<(Cow<'static, str>, Option<String>)>,
}

impl Element {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            attributes: Vec::new(),
        }
    }

    /// Sets an attribute. A later value replaces an earlier one.
    pub(crate) fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        self.put(name.into(), Some(value.into()));
    }

    /// Sets an attribute without a value.
    pub(crate) fn set_flag(&mut self, name: &'static str) {
        self.put(name.into(), None);
    }

    fn put(&mut self, name: Cow<'static, str>, value: Option<String>) {
        match self.attributes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.attributes.push((name, value)),
        }
    }

    /// Writes the element with this content, which is not escaped.
    pub(crate) fn write_around(&self, content: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}", self.name)?;
        for (name, value) in &self.attributes {
            match value {
                Some(value) => write!(f, " {name}=\"{}\"", Escaped(value))?,
                None => write!(f, " {name}")?,
            }
        }
        write!(f, ">{content}</{}>", self.name)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_around("", f)
    }
}

/// Escapes a value between double quotes. By the HTML standard only `&` and `"` need it. `<` and `>` are escaped for
/// filters that do not parse HTML fully.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            // A parser would turn a carriage return into a line feed, and drop or replace a NUL.
            '\r' => f.write_str("&#13;"),
            '\0' => f.write_char(char::REPLACEMENT_CHARACTER),
            other => f.write_char(other),
        })
    }
}

/// An enum of an attribute's values, with the text of each.
macro_rules! values {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Returns the value, as it is written in the attribute.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

values! {
    /// Names what an embed shows: `modules`.
    Modules {
        /// The changelog.
        Changelog = "changelog",
        /// The roadmap.
        Roadmap = "roadmap",
        /// Both.
        All = "all",
    }
}

values! {
    /// Names the color scheme: `color-scheme`.
    ColorScheme {
        /// The browser's setting, and the element's own CSS `color-scheme`.
        System = "system",
        /// Always dark.
        Dark = "dark",
        /// Always light.
        Light = "light",
    }
}

values! {
    /// Names the corner of a widget or a form: `position`.
    Position {
        /// At the top, on the left.
        TopLeft = "top-left",
        /// At the top, on the right.
        TopRight = "top-right",
        /// At the bottom, on the right.
        BottomRight = "bottom-right",
        /// At the bottom, on the left.
        BottomLeft = "bottom-left",
    }
}

values! {
    /// Names what a widget's position is relative to: `anchor`.
    Anchor {
        /// The element that opens the widget.
        Trigger = "trigger",
        /// The window.
        Viewport = "viewport",
    }
}

values! {
    /// Names the language of an embed's own texts: `locale`.
    Locale {
        /// English.
        English = "en",
        /// German.
        German = "de",
        /// French.
        French = "fr",
        /// Spanish.
        Spanish = "es",
        /// Portuguese.
        Portuguese = "pt",
        /// Dutch.
        Dutch = "nl",
        /// Chinese.
        Chinese = "zh",
    }
}
