//! The person whom the application vouches for.

use std::fmt::{self, Write as _};

use email_address::EmailAddress;
use hmac_sha256::Hash;
use url::Url;

use crate::telemetry::debug;

/// The longest user id that Released accepts, in bytes.
const MAX_ID_BYTES: usize = 255;

/// The longest name that Released accepts, in UTF-16 code units. Released documents 200 characters, and not how it counts
/// them: probably as JavaScript does, in these units.
const MAX_NAME_UTF16_UNITS: usize = 200;

/// The start of every encoded id; 64 hexadecimal digits follow.
const ENCODED_PREFIX: &str = "sha256:";

/// Describes a signed-in person to Released: an id, an e-mail address and, optionally, a name and a picture.
///
/// [`User::new`] checks the rules of Released's token API before anything is sent. `Debug` shows nothing of the person.
///
/// # Vouch for confirmed addresses only
///
/// The e-mail address is an authorisation key: Released opens portals by internal domain, by e-mail domain and by
/// address. If a user can enter an address without confirming it, that user can enter somebody else's portal. See
/// [who may be vouched for](crate::docs::vouching).
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
    account: Option<String>,
    name: Option<String>,
    avatar_url: Option<String>,
}

impl User {
    /// Creates a user with this id and this e-mail address, which the person must have confirmed.
    ///
    /// The address is an authorisation key: it opens portals. See [who may be vouched for](crate::docs::vouching).
    ///
    /// Released matches its user profiles by `id`, so it must be unique and stable in your system, and never reused. It
    /// may be a string, a number, a UUID, or anything else with a `Display`. Pass a [`UserId`] from [`UserId::encode`] if
    /// your ids have characters that Released refuses.
    ///
    /// # Example
    ///
    /// ```
    /// use tower_released::User;
    /// use uuid::Uuid;
    ///
    /// assert_eq!(User::new(42, "ada@example.com")?.id(), "42");
    /// let user = User::new(Uuid::nil(), "ada@example.com")?;
    /// assert_eq!(user.id(), "00000000-0000-0000-0000-000000000000");
    /// # Ok::<(), tower_released::InvalidUser>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - The id is not 1 to 255 of `a-z A-Z 0-9 : _ -`.
    /// - The e-mail address is not a bare RFC 5322 address. A bare address has no display name, no angle brackets, no
    ///   control characters, and no white space around it.
    // By value, so that `42` and `user.id()` need no `&`.
    #[allow(clippy::needless_pass_by_value)]
    pub fn new(id: impl ToString, email: impl Into<String>) -> Result<Self, InvalidUser> {
        let id = UserId::new(id.to_string())?;
        let email = email.into();
        if !is_bare_address(&email) {
            return Err(InvalidUser::Email);
        }
        Ok(Self {
            id,
            email,
            account: None,
            name: None,
            avatar_url: None,
        })
    }

    /// Sets the name that Released shows for this person.
    ///
    /// A name never makes a mint fail. A name of more than 200 characters (UTF-16 code units) is cut at a character
    /// boundary, and a `tracing` event says so. A blank name is left out. [`try_with_name`](Self::try_with_name)
    /// returns an error instead.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        let mut name = name.into();
        if is_blank(&name) {
            self.name = None;
            return self;
        }
        if let Some(end) = end_of_allowed_name(&name) {
            debug!(
                "a user's name is longer than the 200 characters that Released accepts; it was cut"
            );
            name.truncate(end);
        }
        self.name = Some(name);
        self
    }

    /// Sets the name that Released shows for this person, if Released accepts it. A blank name is left out.
    ///
    /// # Errors
    ///
    /// [`InvalidUser::NameTooLong`] if the name has more than 200 characters (UTF-16 code units).
    pub fn try_with_name(mut self, name: impl Into<String>) -> Result<Self, InvalidUser> {
        let name = Some(name.into()).filter(|name| !is_blank(name));
        if name.as_deref().and_then(end_of_allowed_name).is_some() {
            return Err(InvalidUser::NameTooLong);
        }
        self.name = name;
        Ok(self)
    }

    /// Sets the URL of a picture of this person.
    ///
    /// A picture never makes a mint fail. An invalid URL is ignored, and a `tracing` event says so. A blank URL is left
    /// out. [`try_with_avatar_url`](Self::try_with_avatar_url) returns an error instead.
    pub fn with_avatar_url(mut self, url: impl Into<String>) -> Self {
        let url = url.into();
        if is_blank(&url) {
            self.avatar_url = None;
        } else if is_web_address(&url) {
            self.avatar_url = Some(url);
        } else {
            debug!("a user's avatar URL is not a valid http or https URL; it was left out");
        }
        self
    }

    /// Sets the URL of a picture of this person, if Released accepts it.
    ///
    /// # Errors
    ///
    /// [`InvalidUser::AvatarUrl`] if the URL is not an absolute `http` or `https` URL by the WHATWG URL standard.
    pub fn try_with_avatar_url(mut self, url: impl Into<String>) -> Result<Self, InvalidUser> {
        let url = url.into();
        if !is_web_address(&url) {
            return Err(InvalidUser::AvatarUrl);
        }
        self.avatar_url = Some(url);
        Ok(self)
    }

    /// Sets the account of Released that vouches for this person, for applications with several accounts. White space
    /// around the id is removed, as [`ReleasedClient::builder`](crate::ReleasedClient::builder) does.
    ///
    /// [`client::by_account`](crate::client::by_account) picks the client of this account. The client of another account
    /// refuses the user. So it does if the id is empty.
    ///
    /// Take the id from your own records, never from the request alone: a client that chooses it chooses whose portals are
    /// opened.
    ///
    /// # Example
    ///
    /// ```
    /// use tower_released::User;
    ///
    /// let ada = User::new("42", "ada@example.com")?;
    /// assert_eq!(ada.account(), None);
    /// assert_eq!(ada.in_account("acc_acme").account(), Some("acc_acme"));
    /// # Ok::<(), tower_released::InvalidUser>(())
    /// ```
    pub fn in_account(mut self, id: impl Into<String>) -> Self {
        let id = id.into();
        self.account = Some(match id.trim() {
            trimmed if trimmed.len() == id.len() => id,
            trimmed => trimmed.to_owned(),
        });
        self
    }

    /// Returns the id of the account of Released that vouches for this person, if it was set.
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// Returns the id in the application's own system.
    pub fn id(&self) -> &UserId {
        &self.id
    }

    /// Returns the e-mail address.
    pub fn email(&self) -> &str {
        &self.email
    }

    /// Returns the name, if it was set.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the picture's URL, if a valid one was set.
    pub fn avatar_url(&self) -> Option<&str> {
        self.avatar_url.as_deref()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").finish_non_exhaustive()
    }
}

/// Holds a user's id that Released accepts: 1 to 255 of `a-z A-Z 0-9 : _ -`.
///
/// Only [`UserId::encode`] of blank input makes an empty one, which [`User::new`] refuses.
///
/// `Debug` does not show it, because it identifies a person. `Display` does.
///
/// # Example
///
/// ```
/// use tower_released::UserId;
///
/// let id = UserId::new("user-42")?;
/// assert_eq!(id, "user-42");
/// assert_eq!(id.to_string(), "user-42");
/// assert!(!format!("{id:?}").contains("42"));
/// # Ok::<(), tower_released::InvalidUser>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserId(String);

impl UserId {
    /// Creates an id from a string, unchanged.
    ///
    /// # Errors
    ///
    /// The string is empty, longer than 255 bytes, or has other characters than `a-z A-Z 0-9 : _ -`.
    pub fn new(id: impl Into<String>) -> Result<Self, InvalidUser> {
        let id = id.into();
        if id.is_empty() {
            return Err(InvalidUser::EmptyId);
        }
        if id.len() > MAX_ID_BYTES {
            return Err(InvalidUser::IdTooLong);
        }
        if !id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b":_-".contains(&byte))
        {
            return Err(InvalidUser::IdCharacter);
        }
        Ok(Self(id))
    }

    /// Turns any string into an id that Released accepts: `auth0|507f…`, an e-mail address, a UUID in braces, an ARN.
    ///
    /// | input | id |
    /// |---|---|
    /// | an id that Released accepts | the same id |
    /// | any other string | `sha256:` and its SHA-256 in 64 hexadecimal digits |
    /// | a string that looks like such a result | `sha256:` and its SHA-256 |
    /// | an empty string, or only white space | an empty id, which [`User::new`] refuses with [`InvalidUser::EmptyId`] |
    ///
    /// The same input gives the same id in every version of this crate. No two inputs give the same id, so a user who
    /// chooses their own id cannot choose another user's. Therefore a result is encoded again if you pass it in: encode
    /// an id once, where you read it, and keep the `UserId`.
    ///
    /// Blank input gives an empty id, because otherwise all users without an id would be the same person to Released.
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
    /// assert_eq!(UserId::encode(" ").as_str(), "");
    /// ```
    pub fn encode(id: impl AsRef<str>) -> Self {
        let id = id.as_ref();
        if is_blank(id) {
            return Self(String::new());
        }
        match Self::new(id) {
            Ok(legal) if !looks_encoded(id) => legal,
            _ => {
                let mut encoded = String::from(ENCODED_PREFIX);
                for byte in Hash::hash(id.as_bytes()) {
                    // Writing to a `String` cannot fail.
                    let _ = write!(encoded, "{byte:02x}");
                }
                Self(encoded)
            }
        }
    }

    /// Returns the id as it is sent to Released. It is empty if [`encode`](Self::encode) got blank input.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<UserId> for String {
    fn from(id: UserId) -> Self {
        id.0
    }
}

/// Writes the id as it is sent to Released.
impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq<str> for UserId {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for UserId {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserId").finish_non_exhaustive()
    }
}

/// Says why a [`User`] was refused, before anything was sent. The texts contain none of the person's data.
#[derive(Clone, Copy, PartialEq, Eq)]
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

crate::error::debug_as_text!(InvalidUser);

impl std::error::Error for InvalidUser {}

/// Returns where a name that is too long must end, in bytes, or `None` if all of it is allowed.
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

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// Checks the two parts separately: for a whole address, the parser also accepts a display name and angle brackets.
fn is_bare_address(email: &str) -> bool {
    let Some((local_part, domain)) = email.rsplit_once('@') else {
        return false;
    };
    EmailAddress::is_valid_local_part(local_part)
        && EmailAddress::is_valid_domain(domain)
        // Stricter than RFC 5322, which allows a tab in a quoted local part, and brackets in a domain literal.
        && !email.contains(char::is_control)
        && !domain.contains(['<', '>'])
}

fn is_web_address(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
}

fn looks_encoded(id: &str) -> bool {
    id.strip_prefix(ENCODED_PREFIX).is_some_and(|digest| {
        digest.len() == 64
            && digest
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> User {
        User::new("u1", "ada@example.com").expect("valid")
    }

    #[test]
    fn an_id_that_is_not_filled_in_makes_no_user() {
        for blank in ["", " ", "\t\r\n", "\u{a0}\u{3000}"] {
            let id = UserId::encode(blank);
            assert_eq!(id.as_str(), "", "{blank:?}");
            assert_eq!(
                User::new(id, "ada@example.com"),
                Err(InvalidUser::EmptyId),
                "{blank:?}"
            );
        }
        assert!(User::new(UserId::encode(" 42 "), "ada@example.com").is_ok());
    }

    #[test]
    fn only_a_bare_address_is_an_e_mail_address() {
        for good in [
            "ada@example.com",
            "ada.lovelace+released@sub.example.co.uk",
            "ada@localhost",
            "ada@[192.0.2.1]",
            "ada@[IPv6:2001:db8::1]",
            "žofie@příklad.example",
            r#""ada lovelace"@example.com"#,
            r#""ada@home"@example.com"#,
            r#""<ada>"@example.com"#,
            r#""ada <lovelace"@example.com"#,
            r#""ada\"lovelace\\"@example.com"#,
        ] {
            assert_eq!(User::new("u1", good).as_ref().map(User::email), Ok(good));
        }
        for bad in [
            "",
            " ",
            "@",
            "ada",
            "ada@",
            "@example.com",
            "ada@@example.com",
            "ada lovelace@example.com",
            "ada@example.com, grace@example.com",
            "mailto:ada@example.com",
            "ada@example.com(home)",
            // With a display name, or the brackets of one.
            "Ada <ada@example.com>",
            r#""Ada" <ada@example.com>"#,
            "<ada@example.com>",
            " <ada@example.com>",
            "\t <ada@example.com>",
            "\r\n <ada@example.com>",
            " <ada@example.com> ",
            " <ada@example.com>\n",
            "\u{a0} <ada@example.com>",
            r#" <"ada"@example.com>"#,
            " <ada@[192.0.2.1]>",
            "ada@<example.com>",
            "ada@[<script>]",
            // With white space or line ends around it, or control characters in it.
            " ada@example.com",
            "ada@example.com ",
            "ada@example.com\n",
            "ada@example.com\r\n",
            "\nada@example.com",
            "\tada@example.com",
            "\u{a0}ada@example.com",
            "ada@example.com\u{2028}",
            "ada\u{85}@example.com",
            "ada\0@example.com",
            "ada@exam\0ple.com",
            "ada@example.com\u{7f}",
            "\"ada\tlovelace\"@example.com",
            "\"ada\r\nbcc: x\"@example.com",
            "\"ada\\\n\"@example.com",
            "ada@[192.0.2.1\n]",
            "ada@[192.0.2.1] ",
        ] {
            assert_eq!(User::new("u1", bad), Err(InvalidUser::Email), "{bad:?}");
        }
    }

    #[test]
    fn a_blank_name_or_avatar_url_is_left_out() {
        for blank in ["", " ", "\t\r\n", "\u{a0}", &" ".repeat(300)] {
            assert_eq!(ada().with_name(blank).name(), None, "{blank:?}");
            assert_eq!(
                ada().try_with_name(blank).as_ref().map(User::name),
                Ok(None),
                "{blank:?}"
            );
            assert_eq!(ada().with_avatar_url(blank).avatar_url(), None, "{blank:?}");
        }
        assert_eq!(ada().with_name(" Ada ").name(), Some(" Ada "));
    }
}
