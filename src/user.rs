//! The person whom the application vouches for.

use std::fmt::{self, Write as _};

use email_address::{EmailAddress, Options};
use sha2::{Digest, Sha256};
use url::Url;

use crate::telemetry::warn;

/// The longest user id that Released accepts, in bytes.
const MAX_ID_BYTES: usize = 255;

/// The longest name that Released accepts, in UTF-16 code units: what a JavaScript server counts as characters.
const MAX_NAME_UTF16_UNITS: usize = 200;

/// What every encoded id starts with, and ends in 64 hexadecimal digits.
const ENCODED_PREFIX: &str = "sha256:";

/// A signed-in person, as Released wants to know them: an id, an e-mail address and, if you like, a name and a picture.
///
/// [`User::new`] enforces the rules of Released's token API before anything is sent, so that whatever holds a `User`
/// need not check it again. `Debug` shows nothing of the person.
///
/// # Example
///
/// ```
/// use tower_released::{User, UserId};
///
/// let user = User::new("42", "ada@example.com")?
///     .with_name("Ada Lovelace")
///     .with_avatar_url("https://example.com/ada.png");
/// assert_eq!(user.name(), Some("Ada Lovelace"));
///
/// // Ids of an identity provider often have characters that Released refuses.
/// assert!(User::new("auth0|507f1f77", "ada@example.com").is_err());
/// let user = User::new(UserId::encode("auth0|507f1f77"), "ada@example.com")?;
/// # Ok::<(), tower_released::InvalidUser>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    id: UserId,
    email: String,
    name: Option<String>,
    avatar_url: Option<String>,
}

impl User {
    /// Vouches for the person with this id and e-mail address.
    ///
    /// Released matches its user profiles by `id`, so it must be unique and stable in your system.
    /// Pass a [`UserId`] from [`UserId::encode`] if your ids have characters that Released refuses.
    ///
    /// # Errors
    ///
    /// If the id is not 1 to 255 of `a-z A-Z 0-9 : _ -`, or the e-mail address is not a bare RFC 5322 address.
    pub fn new(id: impl Into<String>, email: impl Into<String>) -> Result<Self, InvalidUser> {
        let id = UserId::new(id)?;
        let email = email.into();
        let bare_address = Options::default().without_display_text();
        EmailAddress::parse_with_options(&email, bare_address).map_err(|_| InvalidUser::Email)?;
        Ok(Self { id, email, name: None, avatar_url: None })
    }

    /// Adds the name that Released shows for this person.
    ///
    /// A name never costs the login: one of more than 200 characters (UTF-16 code units) is cut at a character boundary,
    /// with a `tracing` event. [`try_with_name`](Self::try_with_name) is the strict form.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        let mut name = name.into();
        if let Some(end) = end_of_allowed_name(&name) {
            warn!("a user's name is longer than the 200 characters that Released accepts; it was cut");
            name.truncate(end);
        }
        self.name = Some(name);
        self
    }

    /// Adds the name that Released shows for this person, or refuses it.
    ///
    /// # Errors
    ///
    /// [`InvalidUser::NameTooLong`] for more than 200 characters (UTF-16 code units).
    pub fn try_with_name(mut self, name: impl Into<String>) -> Result<Self, InvalidUser> {
        let name = name.into();
        if end_of_allowed_name(&name).is_some() {
            return Err(InvalidUser::NameTooLong);
        }
        self.name = Some(name);
        Ok(self)
    }

    /// Adds the address of a picture of this person.
    ///
    /// A picture never costs the login: an invalid address is dropped, with a `tracing` event.
    /// [`try_with_avatar_url`](Self::try_with_avatar_url) is the strict form.
    pub fn with_avatar_url(mut self, url: impl Into<String>) -> Self {
        let url = url.into();
        if is_web_address(&url) {
            self.avatar_url = Some(url);
        } else {
            warn!("a user's avatar URL is not a valid http or https URL; it was left out");
        }
        self
    }

    /// Adds the address of a picture of this person, or refuses it.
    ///
    /// # Errors
    ///
    /// [`InvalidUser::AvatarUrl`] if it is not an absolute `http` or `https` URL by the WHATWG URL standard.
    pub fn try_with_avatar_url(mut self, url: impl Into<String>) -> Result<Self, InvalidUser> {
        let url = url.into();
        if !is_web_address(&url) {
            return Err(InvalidUser::AvatarUrl);
        }
        self.avatar_url = Some(url);
        Ok(self)
    }

    /// The id in the application's own system.
    pub fn id(&self) -> &UserId {
        &self.id
    }

    /// The e-mail address.
    pub fn email(&self) -> &str {
        &self.email
    }

    /// The name, if one was given.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The picture's address, if a valid one was given.
    pub fn avatar_url(&self) -> Option<&str> {
        self.avatar_url.as_deref()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").finish_non_exhaustive()
    }
}

/// An id that Released accepts: 1 to 255 of `a-z A-Z 0-9 : _ -`.
///
/// `Debug` does not show it: it tells who somebody is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserId(String);

impl UserId {
    /// Takes an id as it is.
    ///
    /// # Errors
    ///
    /// If it is empty, longer than 255 bytes, or has other characters than `a-z A-Z 0-9 : _ -`.
    pub fn new(id: impl Into<String>) -> Result<Self, InvalidUser> {
        let id = id.into();
        if id.is_empty() {
            return Err(InvalidUser::EmptyId);
        }
        if id.len() > MAX_ID_BYTES {
            return Err(InvalidUser::IdTooLong);
        }
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":_-".contains(&byte)) {
            return Err(InvalidUser::IdCharacter);
        }
        Ok(Self(id))
    }

    /// Turns any string into an id that Released accepts: `auth0|507f…`, an e-mail address, a UUID in braces, an ARN.
    ///
    /// A legal id is kept as it is; any other becomes `sha256:` and 64 hexadecimal digits, its SHA-256, from which it
    /// cannot be read back. The same input
    /// gives the same id in every version of this crate, and no two inputs give the same one: for that, a legal id
    /// that *looks* encoded is encoded too, or else somebody who may choose their own id could choose another's.
    /// So encode an id once, where you read it, and pass the `UserId` on.
    ///
    /// # Example
    ///
    /// ```
    /// use tower_released::UserId;
    ///
    /// assert_eq!(UserId::encode("user-42").as_str(), "user-42");
    /// assert_eq!(
    ///     UserId::encode("auth0|507f1f77bcf86cd799439011").as_str(),
    ///     "sha256:3166db2b9669d7bbc38954a2db7b6d39e8d50fd96d201a14fde13ee9601bbcd6",
    /// );
    /// ```
    pub fn encode(id: impl AsRef<str>) -> Self {
        let id = id.as_ref();
        match Self::new(id) {
            Ok(legal) if !looks_encoded(id) => legal,
            _ => {
                let mut encoded = String::from(ENCODED_PREFIX);
                for byte in Sha256::digest(id) {
                    // Writing to a `String` cannot fail.
                    let _ = write!(encoded, "{byte:02x}");
                }
                Self(encoded)
            }
        }
    }

    /// The id as it is sent to Released.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<UserId> for String {
    fn from(id: UserId) -> Self {
        id.0
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserId").finish_non_exhaustive()
    }
}

/// Why a [`User`] was refused before anything was sent. None of the texts holds any of the person's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidUser {
    /// The id is empty.
    EmptyId,
    /// The id is longer than 255 bytes.
    IdTooLong,
    /// The id has a character that is not one of `a-z A-Z 0-9 : _ -`.
    IdCharacter,
    /// The e-mail address is not a bare RFC 5322 address.
    Email,
    /// The name has more than 200 characters (UTF-16 code units).
    NameTooLong,
    /// The avatar URL is not an absolute `http` or `https` URL.
    AvatarUrl,
}

impl fmt::Display for InvalidUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyId => "the user's id is empty; Released needs one that is unique in your system",
            Self::IdTooLong => {
                "the user's id is longer than the 255 bytes that Released accepts; UserId::encode makes any id fit"
            }
            Self::IdCharacter => {
                "the user's id has characters other than a-z A-Z 0-9 : _ - that Released refuses; \
                 UserId::encode makes any id fit"
            }
            Self::Email => "the user's e-mail address is not valid (a bare address such as ada@example.com is needed)",
            Self::NameTooLong => "the user's name is longer than the 200 characters that Released accepts",
            Self::AvatarUrl => "the user's avatar URL is not an absolute http or https URL",
        })
    }
}

impl std::error::Error for InvalidUser {}

/// Where a name that is too long must end, in bytes; `None` if all of it is allowed.
fn end_of_allowed_name(name: &str) -> Option<usize> {
    // UTF-8 never takes fewer bytes than UTF-16 takes units, so short names need no counting.
    if name.len() <= MAX_NAME_UTF16_UNITS {
        return None;
    }
    let mut units = 0;
    name.char_indices().find_map(|(start, character)| {
        units += character.len_utf16();
        (units > MAX_NAME_UTF16_UNITS).then_some(start)
    })
}

fn is_web_address(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
}

fn looks_encoded(id: &str) -> bool {
    id.strip_prefix(ENCODED_PREFIX).is_some_and(|digest| {
        digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
}
