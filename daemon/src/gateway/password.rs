//! Whether a user name and a password are good: by token, by script, or because none is asked for.

use controlplane::Secret;

use super::scripts::{LoginFacts, Scripts, TokenFacts, Verdict};
use super::token::{EXPIRED_REASON, TokenSession, TokenState, Tokens};

/// How passwords are judged.
#[derive(Debug)]
pub struct Passwords {
    /// With `auth-user-pass-verify` or without.
    pub scripts: Scripts,
    /// `auth-gen-token`
    pub tokens: Option<Tokens>,
    /// `auth-user-pass-optional`
    pub optional: bool,
}

/// The judgement on a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Let in.
    Accept {
        /// The user name that holds: empty when a token was made for the empty one.
        username: String,
        /// A token to push; with `auth-gen-token` only.
        token: Option<Secret>,
        /// The token's session, to be kept for the next judgement on this client and for renewals.
        session: Option<TokenSession>,
    },
    /// Not let in.
    Refuse {
        /// The message to the client, whole: `AUTH_FAILED`, or with a comma and a reason.
        text: String,
        /// What the log says.
        reason: String,
    },
}

impl Passwords {
    /// Judges a login. `prior` is what an earlier judgement on this client gave; `now` is in seconds since 1970; `fresh`
    /// is a session that begins now, for the case that one is needed.
    pub async fn judge(
        &self,
        login: &LoginFacts,
        prior: Option<&TokenSession>,
        now: u64,
        fresh: TokenSession,
    ) -> Judgement {
        if !self.scripts.asks_for_passwords() {
            return Judgement::Accept { username: login.username.clone(), token: None, session: None };
        }
        let missing = login.username.is_empty() || login.password.0.is_empty();
        if missing && !self.optional {
            return refuse(None, "the client gave no user name and password");
        }
        match &self.tokens {
            None => self.ask(login.clone(), None, now).await,
            Some(tokens) => self.judge_token(tokens, login, prior, now, fresh).await,
        }
    }

    async fn judge_token(
        &self,
        tokens: &Tokens,
        login: &LoginFacts,
        prior: Option<&TokenSession>,
        now: u64,
        fresh: TokenSession,
    ) -> Judgement {
        let checked = tokens.check(&login.username, &login.password.0, now, prior);
        let mut login = login.clone();
        if checked.state.is_empty_user() {
            login.username.clear();
        }
        // A client that comes with its password again stays in the session it had.
        let session = checked.session.or(prior.copied()).unwrap_or(fresh);
        if checked.state == TokenState::Initial || tokens.external_auth() {
            login.token = Some(TokenFacts { session_id: session.name(), session_state: checked.state.name() });
            return self.ask(login, Some((tokens, session, checked.state)), now).await;
        }
        match checked.state {
            TokenState::Authenticated => Judgement::Accept {
                token: Some(tokens.issue(&login.username, &session, now)),
                username: login.username,
                session: Some(session),
            },
            state => refuse(expiry(state), &format!("the auth-token is not good: {}", state.name())),
        }
    }

    async fn ask(&self, login: LoginFacts, token: Option<(&Tokens, TokenSession, TokenState)>, now: u64) -> Judgement {
        match self.scripts.verify_user_pass(&login).await {
            Verdict::Accept => Judgement::Accept {
                token: token.map(|(tokens, session, _)| tokens.issue(&login.username, &session, now)),
                session: token.map(|(_, session, _)| session),
                username: login.username,
            },
            Verdict::Refuse { client, reason } => {
                let client = client.or_else(|| token.and_then(|(_, _, state)| expiry(state)));
                refuse(client, &reason)
            }
        }
    }
}

/// What the client of an expired token is told, so that it asks its user for the password again.
fn expiry(state: TokenState) -> Option<String> {
    matches!(state, TokenState::Expired | TokenState::ExpiredEmptyUser).then(|| EXPIRED_REASON.to_owned())
}

fn refuse(client: Option<String>, reason: &str) -> Judgement {
    let text = client.map_or_else(|| "AUTH_FAILED".to_owned(), |client| format!("AUTH_FAILED,{client}"));
    Judgement::Refuse { text, reason: reason.to_owned() }
}
