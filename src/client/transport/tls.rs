//! TLS to the token API and to a proxy. Both libraries check certificates as the system does.
//!
//! With both features, `native-tls` is used, as in reqwest.

#[cfg(feature = "native-tls")]
pub(crate) use self::native::Tls;
#[cfg(not(feature = "native-tls"))]
pub(crate) use self::rust::Tls;

#[cfg(feature = "native-tls")]
mod native {
    use hyper_tls::HttpsConnector;
    use native_tls::TlsConnector;

    use crate::client::config_error::ConfigError;

    /// TLS of the operating system, or of OpenSSL.
    pub(crate) struct Tls {
        released: TlsConnector,
        proxy: TlsConnector,
    }

    impl Tls {
        pub(crate) fn new() -> Result<Self, ConfigError> {
            let connector = |protocols: &[&str]| {
                TlsConnector::builder()
                    .request_alpns(protocols)
                    .build()
                    .map_err(ConfigError::http_client)
            };
            Ok(Self {
                released: connector(&["http/1.1"])?,
                proxy: connector(&[])?,
            })
        }

        /// Wraps `inner` in TLS. Refuses connections without TLS.
        pub(crate) fn to_released<C>(&self, inner: C) -> HttpsConnector<C> {
            let mut connector = HttpsConnector::from((inner, self.released.clone().into()));
            connector.https_only(true);
            connector
        }

        /// Wraps `inner` in TLS if the proxy's URL is `https`.
        pub(crate) fn to_proxy<C>(&self, inner: C) -> HttpsConnector<C> {
            (inner, self.proxy.clone().into()).into()
        }
    }
}

#[cfg(not(feature = "native-tls"))]
mod rust {
    use std::sync::Arc;

    use hyper_rustls::{ConfigBuilderExt, HttpsConnector};
    use rustls::ClientConfig;
    use rustls::crypto::{CryptoProvider, aws_lc_rs};

    use crate::client::config_error::ConfigError;

    /// TLS of rustls.
    pub(crate) struct Tls {
        released: Arc<ClientConfig>,
        proxy: Arc<ClientConfig>,
    }

    impl Tls {
        pub(crate) fn new() -> Result<Self, ConfigError> {
            // The application may have chosen another provider.
            let provider = CryptoProvider::get_default()
                .cloned()
                .unwrap_or_else(|| aws_lc_rs::default_provider().into());
            let proxy = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .and_then(ConfigBuilderExt::try_with_platform_verifier)
                .map_err(ConfigError::http_client)?
                .with_no_client_auth();
            let mut released = proxy.clone();
            released.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(Self {
                released: released.into(),
                proxy: proxy.into(),
            })
        }

        /// Wraps `inner` in TLS. Refuses connections without TLS.
        pub(crate) fn to_released<C>(&self, inner: C) -> HttpsConnector<C> {
            let mut connector = HttpsConnector::from((inner, Arc::clone(&self.released)));
            connector.enforce_https();
            connector
        }

        /// Wraps `inner` in TLS if the proxy's URL is `https`.
        pub(crate) fn to_proxy<C>(&self, inner: C) -> HttpsConnector<C> {
            (inner, Arc::clone(&self.proxy)).into()
        }
    }
}
