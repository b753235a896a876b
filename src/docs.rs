//! Guides that are longer than a type's documentation. Every example in them is compiled.
//!
//! | guide | read it when |
//! |---|---|
//! | [`setting_up`] | you start: from nothing to the first private page |
//! | [`signing_in`] | you write the resolver: how does it find the user of axum-login, a cookie, a token, a proxy? |
//! | [`vouching`] | you write the resolver: for whom may you vouch? |
//! | [`embedding`] | you write the page |
//! | [`existing_pages`] | your pages are files, or another application's |
//! | [`csp`] | your pages have a Content-Security-Policy |
//! | [`caching`] | a cache or a CDN is in front of your application |
//! | [`single_page_apps`] | the browser puts the page together, or the page is cached |
//! | [`signing_out`] | you ask what ends when a user signs out |
//! | [`troubleshooting`] | something does not work |
//! | [`operating`] | you run the application: limits, errors, several accounts, the secret |
//! | [`monitoring`] | you want to know how it is doing: logs, metrics, alerts, a readiness page |
//! | [`scaling_out`] | you run it on several servers |
//! | [`leaked_secret`] | somebody may have seen the shared secret |

#[doc = include_str!("docs/setting_up.md")]
pub mod setting_up {}

#[doc = include_str!("docs/signing_in.md")]
pub mod signing_in {}

#[doc = include_str!("docs/vouching.md")]
pub mod vouching {}

#[doc = include_str!("docs/embedding.md")]
pub mod embedding {}

#[doc = include_str!("docs/existing_pages.md")]
pub mod existing_pages {}

#[doc = include_str!("docs/csp.md")]
pub mod csp {}

#[doc = include_str!("docs/caching.md")]
pub mod caching {}

#[doc = include_str!("docs/single_page_apps.md")]
pub mod single_page_apps {}

#[doc = include_str!("docs/signing_out.md")]
pub mod signing_out {}

#[doc = include_str!("docs/operating.md")]
pub mod operating {}

#[doc = include_str!("docs/monitoring.md")]
pub mod monitoring {}

#[doc = include_str!("docs/scaling_out.md")]
pub mod scaling_out {}

#[doc = include_str!("docs/troubleshooting.md")]
pub mod troubleshooting {}

#[doc = include_str!("docs/leaked_secret.md")]
pub mod leaked_secret {}
