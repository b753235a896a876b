//! The four elements, with the attributes that Released documents for each.

use std::fmt;
use std::time::Duration;

use super::attribute_name::{self, InvalidAttribute};
use super::attributes::{Anchor, ColorScheme, Element, Locale, Modules, Position};
use crate::token::AuthToken;

/// The attribute from which the script of `token_script` reads its endpoint.
const TOKEN_ENDPOINT: &str = "data-released-auth";

/// Creates a portal in the page, for the channel with this id: `<released-page>`.
pub fn page(channel_id: impl Into<String>) -> Page {
    Page::new("released-page", "channel-id", channel_id.into())
}

/// Creates a portal that opens over the page, for the channel with this id: `<released-widget>`.
pub fn widget(channel_id: impl Into<String>) -> Widget {
    Widget::new("released-widget", "channel-id", channel_id.into())
}

/// Creates a feedback form with this id: `<released-form>`. It needs Released's Advanced edition.
pub fn form(form_id: impl Into<String>) -> Form {
    Form::new("released-form", "form-id", form_id.into())
}

/// Returns the attribute that says what an element with this name shows.
#[cfg(any(feature = "cli", feature = "fill"))]
pub(crate) fn id_attribute(element: &str) -> &'static str {
    if element == "released-form" {
        "form-id"
    } else {
        "channel-id"
    }
}

/// Creates a badge for the channel with this id: `<released-badge>`. It probably shows whether there is news.
///
/// Released documents only its `channel-id`. Whether it uses a token is not documented.
pub fn badge(channel_id: impl Into<String>) -> Badge {
    Badge::new("released-badge", "channel-id", channel_id.into())
}

/// Defines an element's type, with the methods that all elements have.
macro_rules! element {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// `Display` writes the element; `Debug` does not show its token.
        #[must_use = "an element does nothing until it is written into a page"]
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name {
            element: Element,
            has_token: bool,
        }

        impl $name {
            fn new(name: &'static str, id_attribute: &'static str, id: String) -> Self {
                let mut element = Element::new(name);
                element.set(id_attribute, id);
                Self { element, has_token: false }
            }

            /// Sets the token, which opens the embed for its user. A page with a token must not be cached.
            pub fn token(mut self, token: &AuthToken) -> Self {
                self.has_token = true;
                self.with("auth-token", token.as_str())
            }

            /// Sets the token if there is one. Without a token, a restricted portal offers manual sign-in, and a public
            /// portal shows what is public.
            pub fn maybe_token(self, token: Option<&AuthToken>) -> Self {
                match token {
                    Some(token) => self.token(token),
                    None => self,
                }
            }

            /// Sets the URL of a [`token_endpoint`](crate::token_endpoint), from which the script of
            /// [`token_script`](crate::embed::token_script) fetches the token in the browser.
            ///
            /// Use it for pages that are cached, and for pages that the browser puts together.
            pub fn token_from(self, endpoint: impl Into<String>) -> Self {
                self.with(TOKEN_ENDPOINT, endpoint)
            }

            /// Sets any attribute, such as `id`, `class`, `style` or `data-plan`. The value is escaped. A later value
            /// replaces an earlier one.
            ///
            /// Use it for what your page needs, and for attributes and values that Released adds after this version.
            /// If a script library or CSS reads the attribute, escaping is not enough: write nothing into it that a
            /// user typed.
            ///
            /// # Errors
            ///
            /// The name is invalid, is that of an event handler, or is `channel-id`, `form-id`, `auth-token` or
            /// `data-released-auth`; see [`InvalidAttribute`].
            pub fn attribute(
                mut self,
                name: &str,
                value: impl Into<String>,
            ) -> Result<Self, InvalidAttribute> {
                attribute_name::check(name, attribute_name::OF_ELEMENTS)?;
                self.element.set(name.to_owned(), value);
                Ok(self)
            }

            fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
                self.element.set(name, value);
                self
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.element.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("has_token", &self.has_token).finish_non_exhaustive()
            }
        }
    };
}

/// Defines methods that several elements share, by the name of the attribute.
macro_rules! attributes {
    ($($element:ident: $($attribute:ident)*;)*) => {
        $(impl $element { $(attributes!(@$attribute);)* })*
    };
    (@modules) => {
        /// Sets what the embed shows.
        pub fn modules(self, modules: Modules) -> Self {
            self.with("modules", modules.as_str())
        }
    };
    (@title) => {
        /// Sets the title.
        pub fn title(self, title: impl Into<String>) -> Self {
            self.with("title", title)
        }
    };
    (@sub_title) => {
        /// Sets the line below the title.
        pub fn sub_title(self, sub_title: impl Into<String>) -> Self {
            self.with("sub-title", sub_title)
        }
    };
    (@changelog_category) => {
        /// Limits the changelog to one category, by its slug.
        pub fn changelog_category(self, slug: impl Into<String>) -> Self {
            self.with("changelog-category", slug)
        }
    };
    (@color_scheme) => {
        /// Sets whether the colors are light or dark.
        pub fn color_scheme(self, scheme: ColorScheme) -> Self {
            self.with("color-scheme", scheme.as_str())
        }
    };
    (@color_primary) => {
        /// Sets the primary color, as a CSS color.
        pub fn color_primary(self, color: impl Into<String>) -> Self {
            self.with("color-primary", color)
        }
    };
    (@color_secondary) => {
        /// Sets the secondary color, as a CSS color.
        pub fn color_secondary(self, color: impl Into<String>) -> Self {
            self.with("color-secondary", color)
        }
    };
    (@z_index) => {
        /// Sets the CSS `z-index`.
        pub fn z_index(self, z_index: i32) -> Self {
            self.with("z-index", z_index.to_string())
        }
    };
    (@locale) => {
        /// Sets the language of the embed's own texts.
        pub fn locale(self, locale: Locale) -> Self {
            self.with("locale", locale.as_str())
        }
    };
    (@refresh) => {
        /// Sets how often the embed looks for news, in whole seconds. An interval below one second becomes one.
        pub fn refresh(self, interval: Duration) -> Self {
            self.with("refresh", format!("{}s", interval.as_secs().max(1)))
        }
    };
    (@position) => {
        /// Sets the corner in which the element opens.
        pub fn position(self, position: Position) -> Self {
            self.with("position", position.as_str())
        }
    };
    (@data) => {
        /// Sets the attribute `data-NAME`, which Released documents for this element.
        ///
        /// # Errors
        ///
        /// As those of [`attribute`](Self::attribute) for `data-NAME`.
        pub fn data(self, name: &str, value: impl Into<String>) -> Result<Self, InvalidAttribute> {
            self.attribute(&format!("data-{name}"), value)
        }
    };
}

element! {
    /// Writes a portal in the page; see [`page`].
    Page
}

element! {
    /// Writes a portal that opens over the page; see [`widget`].
    Widget
}

element! {
    /// Writes a feedback form; see [`form`].
    Form
}

element! {
    /// Writes a badge; see [`badge`].
    ///
    /// Released documents nothing about `auth-token` on a badge, so its token is a guess.
    Badge
}

attributes! {
    Page: modules title sub_title changelog_category color_scheme color_primary z_index locale refresh;
    Widget: modules title sub_title position changelog_category color_scheme color_primary color_secondary z_index
        locale refresh data;
    Form: title sub_title position color_scheme locale data;
}

impl Page {
    /// Sets whether the portal's header is shown.
    pub fn header(self, shown: bool) -> Self {
        self.with("header", shown.to_string())
    }

    /// Sets whether the entries' cover images are shown.
    pub fn cover_images(self, shown: bool) -> Self {
        self.with("cover-images", shown.to_string())
    }

    /// Sets how far from the top of the window the sticky titles are, in CSS pixels.
    pub fn top_offset(self, pixels: u32) -> Self {
        self.with("top-offset", pixels.to_string())
    }

    /// Switches sticky titles off. It replaces [`top_offset`](Self::top_offset), because both are one attribute.
    pub fn no_sticky_titles(self) -> Self {
        self.with("top-offset", "false")
    }
}

impl Widget {
    /// Sets what the widget's position is relative to.
    pub fn anchor(self, anchor: Anchor) -> Self {
        self.with("anchor", anchor.as_str())
    }

    /// Sets the CSS selector of the element that opens the widget.
    pub fn trigger(self, selector: impl Into<String>) -> Self {
        self.with("trigger", selector)
    }

    /// Sets whether the widget opens by itself. Released does not document when it does.
    pub fn boost(self, boosted: bool) -> Self {
        self.with("boost", boosted.to_string())
    }

    /// Sets whether the widget shows a badge.
    pub fn badge(self, shown: bool) -> Self {
        self.with("badge", shown.to_string())
    }
}

impl Form {
    /// Sets the text of the empty field.
    pub fn placeholder(self, placeholder: impl Into<String>) -> Self {
        self.with("placeholder", placeholder)
    }

    /// Sets whether the form is a dialog. The page opens it with `window.Released.show('form', FORM_ID)`.
    pub fn dialog(self, dialog: bool) -> Self {
        self.with("dialog", dialog.to_string())
    }
}
