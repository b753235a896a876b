//! Decides which names `.attribute(..)` accepts.

use std::fmt;

/// The attributes that the builders of elements write themselves.
pub(crate) const OF_ELEMENTS: &[&str] =
    &["auth-token", "channel-id", "data-released-auth", "form-id"];

/// The attributes that the builders of script tags write themselves.
pub(crate) const OF_SCRIPTS: &[&str] = &["crossorigin", "defer", "integrity", "nonce", "src"];

/// Checks the name of an attribute of the application's own.
///
/// HTML allows more names (HTML Standard, section 13.1.2.3). A parser lower-cases names, so an upper-case name would be
/// a second `auth-token`. A name such as `@click` or `(click)` is an event handler of a script library.
pub(crate) fn check(name: &str, reserved: &[&str]) -> Result<(), InvalidAttribute> {
    let is_inside =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.:".contains(&byte);
    let is_name = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.ends_with(|last: char| last.is_ascii_alphanumeric())
        && name.bytes().all(is_inside);
    if !is_name {
        return Err(InvalidAttribute::Name);
    }
    // `onclick` of HTML, and `hx-on:click`, `x-on:click` and `data-on-click` of script libraries.
    if name.starts_with("on") || name.split(['-', '_', '.', ':']).any(|part| part == "on") {
        return Err(InvalidAttribute::EventHandler);
    }
    if reserved.contains(&name) {
        return Err(InvalidAttribute::Reserved);
    }
    Ok(())
}

/// Says why the name of an attribute was refused.
///
/// # Example
///
/// ```
/// use tower_released::embed::{self, InvalidAttribute};
///
/// let clicked = embed::page("YOUR-CHANNEL").attribute("onclick", "alert(1)");
/// assert_eq!(clicked, Err(InvalidAttribute::EventHandler));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidAttribute {
    /// The name does not start with `a-z`, does not end with `a-z` or a digit, or has other characters than `a-z`,
    /// digits, `-`, `_`, `.` and `:`.
    Name,
    /// The name is that of an event handler: it starts with `on`, or a part of it is `on`, as in `hx-on:click`. A
    /// browser or a script library runs its value as a script.
    EventHandler,
    /// The builder writes this attribute itself.
    Reserved,
}

impl fmt::Display for InvalidAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => {
                "the name of the attribute has other characters than a-z, digits, -, _, . and :, or does not start with \
                 a-z, or does not end with a-z or a digit"
            }
            Self::EventHandler => {
                "the name of the attribute is that of an event handler, whose value runs as a script; add an event \
                 listener in a script of your own"
            }
            Self::Reserved => {
                "the builder writes this attribute itself; use its own method, such as token, token_from, nonce or \
                 integrity"
            }
        })
    }
}

crate::error::debug_as_text!(InvalidAttribute);

impl std::error::Error for InvalidAttribute {}
