//! A page that shows the client's status while you break Released: `/status`.

use axum::Router;
use axum::extract::State;
use axum::response::Redirect;
use axum::routing::{get, post};
use maud::Markup;
use tower_released::{BoxError, ReleasedClient, User};

use crate::pages;
use crate::site::Portal;
use crate::users::{ACCOUNTS, AuthSession};

/// Enough for the circuit to open, in one go.
const MINTS: usize = 6;

#[derive(Clone)]
struct Observed {
    portal: Portal,
    released: ReleasedClient,
    users: Vec<User>,
}

pub(crate) fn routes<S>(released: ReleasedClient, portal: Portal) -> Result<Router<S>, BoxError> {
    let users = ACCOUNTS.iter().cycle().take(MINTS);
    let users = users.map(|account| User::new(account.id, account.email));
    let observed = Observed {
        portal,
        released,
        users: users.collect::<Result<_, _>>()?,
    };
    Ok(Router::new()
        .route("/status", get(page))
        .route("/status/now", get(now))
        .route("/status/mint", post(mint))
        .with_state(observed))
}

async fn page(State(observed): State<Observed>, auth: AuthSession) -> Markup {
    pages::status(&observed.portal, auth, &observed.released.status())
}

/// The part that the page's script fetches each second.
async fn now(State(observed): State<Observed>) -> Markup {
    pages::status_table(&observed.released.status())
}

/// Mints in the background, so that the page shows the mints in flight.
async fn mint(
    State(Observed {
        released,
        users,
        portal,
    }): State<Observed>,
) -> Redirect {
    // Not with an account: these persons are made up.
    if portal.fake.is_some() {
        for user in users {
            let released = released.clone();
            tokio::spawn(async move { released.mint(&user).await });
        }
    }
    Redirect::to("/status")
}
