//! The four elements, with the attributes that Released documents for each.

use std::fmt;
use std::time::Duration;

use super::attributes::{Anchor, ColorScheme, Element, Locale, Modules, Position, is_data_name};
use crate::token::AuthToken;

/// The attribute from which the script of `token_script` takes its endpoint.
const TOKEN_ENDPOINT: &str = "data-released-auth";

/// A portal in the page, for the channel with this id: `<released-page>`.
pub fn page(channel_id: impl Into<String>) -> Page {
    Page::new("released-page", "channel-id", channel_id.into())
}

/// A portal that opens over the page, for the channel with this id: `<released-widget>`.
pub fn widget(channel_id: impl Into<String>) -> Widget {
    Widget::new("released-widget", "channel-id", channel_id.into())
}

/// A feedback form with this id: `<released-form>`.
pub fn form(form_id: impl Into<String>) -> Form {
    Form::new("released-form", "form-id", form_id.into())
}

/// A badge that tells of news in the channel with this id: `<released-badge>`.
pub fn badge(channel_id: impl Into<String>) -> Badge {
    Badge::new("released-badge", "channel-id", channel_id.into())
}

/// An element's type, with what all of them have.
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

            /// Opens it for the person for whom the token was minted. Such a page must not be cached.
            pub fn token(mut self, token: &AuthToken) -> Self {
                self.has_token = true;
                self.with("auth-token", token.as_str())
            }

            /// The same if there is a token. Without one, a public portal is shown, and of a private one nothing.
            pub fn maybe_token(self, token: Option<&AuthToken>) -> Self {
                match token {
                    Some(token) => self.token(token),
                    None => self,
                }
            }

            /// Lets the script of [`token_script`](crate::embed::token_script) fetch the token, in the browser, from this
            /// URL of a [`token_endpoint`](crate::token_endpoint), for pages that are cached or put together there.
            pub fn token_from(self, endpoint: impl Into<String>) -> Self {
                self.with(TOKEN_ENDPOINT, endpoint)
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

/// Methods that several elements share, by the name of the attribute.
macro_rules! attributes {
    ($($element:ident: $($attribute:ident)*;)*) => {
        $(impl $element { $(attributes!(@$attribute);)* })*
    };
    (@modules) => {
        /// Chooses what to show.
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
        /// Shows only this category of the changelog, by its slug.
        pub fn changelog_category(self, slug: impl Into<String>) -> Self {
            self.with("changelog-category", slug)
        }
    };
    (@color_scheme) => {
        /// Chooses light or dark.
        pub fn color_scheme(self, scheme: ColorScheme) -> Self {
            self.with("color-scheme", scheme.as_str())
        }
    };
    (@color_primary) => {
        /// Sets the primary colour, in CSS's words.
        pub fn color_primary(self, color: impl Into<String>) -> Self {
            self.with("color-primary", color)
        }
    };
    (@color_secondary) => {
        /// Sets the secondary colour, in CSS's words.
        pub fn color_secondary(self, color: impl Into<String>) -> Self {
            self.with("color-secondary", color)
        }
    };
    (@z_index) => {
        /// Sets how far it is in front of other elements.
        pub fn z_index(self, z_index: i32) -> Self {
            self.with("z-index", z_index.to_string())
        }
    };
    (@locale) => {
        /// Chooses the language of its own words.
        pub fn locale(self, locale: Locale) -> Self {
            self.with("locale", locale.as_str())
        }
    };
    (@refresh) => {
        /// Looks for news this often, in whole seconds, and once a second at most.
        pub fn refresh(self, interval: Duration) -> Self {
            self.with("refresh", format!("{}s", interval.as_secs().max(1)))
        }
    };
    (@position) => {
        /// Chooses the corner in which it opens.
        pub fn position(self, position: Position) -> Self {
            self.with("position", position.as_str())
        }
    };
    (@data) => {
        /// Adds the attribute `data-NAME`.
        ///
        /// # Panics
        ///
        /// If the name is empty or has other characters than `a-z 0-9 -`.
        pub fn data(mut self, name: &'static str, value: impl Into<String>) -> Self {
            assert!(is_data_name(name), "the name of a data attribute has only a-z, 0-9 and -");
            self.element.set(format!("data-{name}"), value);
            self
        }
    };
}

element! {
    /// A portal in the page; see [`page`].
    Page
}

element! {
    /// A portal that opens over the page; see [`widget`].
    Widget
}

element! {
    /// A feedback form; see [`form`].
    Form
}

element! {
    /// A badge that tells of news; see [`badge`].
    Badge
}

attributes! {
    Page: modules title sub_title changelog_category color_scheme color_primary z_index locale refresh;
    Widget: modules title sub_title position changelog_category color_scheme color_primary color_secondary z_index
        locale refresh data;
    Form: title sub_title position color_scheme locale data;
}

impl Page {
    /// Shows the portal's header, or not.
    pub fn header(self, shown: bool) -> Self {
        self.with("header", shown.to_string())
    }

    /// Shows the entries' cover images, or not.
    pub fn cover_images(self, shown: bool) -> Self {
        self.with("cover-images", shown.to_string())
    }

    /// Leaves this much room at the top of the window for what stays there when the page is scrolled, in CSS pixels.
    pub fn top_offset(self, pixels: u32) -> Self {
        self.with("top-offset", pixels.to_string())
    }

    /// Leaves no room at the top of the window.
    pub fn no_top_offset(self) -> Self {
        self.with("top-offset", "false")
    }
}

impl Widget {
    /// Chooses what its position is relative to.
    pub fn anchor(self, anchor: Anchor) -> Self {
        self.with("anchor", anchor.as_str())
    }

    /// Opens it by the element that this CSS selector finds.
    pub fn trigger(self, selector: impl Into<String>) -> Self {
        self.with("trigger", selector)
    }

    /// Lets Released boost it, or not.
    pub fn boost(self, boosted: bool) -> Self {
        self.with("boost", boosted.to_string())
    }

    /// Marks the trigger when there are news, or not.
    pub fn badge(self, shown: bool) -> Self {
        self.with("badge", shown.to_string())
    }
}

impl Form {
    /// Sets what is written in the empty field.
    pub fn placeholder(self, placeholder: impl Into<String>) -> Self {
        self.with("placeholder", placeholder)
    }

    /// Opens it over the page, by `Released.show('form', FORM_ID)`, or shows it in the page.
    pub fn dialog(self, dialog: bool) -> Self {
        self.with("dialog", dialog.to_string())
    }
}
