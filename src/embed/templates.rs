//! Elements and tags as safe values of template engines, so that no template needs `|safe`.
//!
//! They escape their own attributes. See the examples `maud`, `askama` and `minijinja`.

use super::{Badge, Form, InlineScript, Page, Preconnect, Script, Widget};

macro_rules! safe_in_templates {
    ($($element:ident)*) => {
        $(
            #[cfg(feature = "maud")]
            impl maud::Render for $element {
                fn render_to(&self, buffer: &mut String) {
                    use std::fmt::Write as _;
                    // Writing to a `String` cannot fail.
                    let _ = write!(buffer, "{self}");
                }
            }

            #[cfg(feature = "askama")]
            impl askama::filters::HtmlSafe for $element {}

            #[cfg(feature = "minijinja")]
            impl From<$element> for minijinja::Value {
                fn from(element: $element) -> Self {
                    Self::from_safe_string(element.to_string())
                }
            }
        )*
    };
}

safe_in_templates!(Badge Form InlineScript Page Preconnect Script Widget);
