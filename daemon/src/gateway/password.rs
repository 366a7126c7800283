//! Whether a user name and a password are good: by token, by script, or because none is asked for.

use controlplane::Secret;

use super::scripts::{Deferral, LoginFacts, Scripts, TokenFacts, Verdict};
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
    /// is a session that begins now, for the case that one is needed. `deferred` is called when the answer comes later.
    pub async fn judge(
        &self,
        login: &LoginFacts,
        prior: Option<&TokenSession>,
        now: u64,
        fresh: TokenSession,
        deferred: impl Fn(Deferral),
    ) -> Judgement {
        if !self.scripts.asks_for_passwords() {
            return Judgement::Accept { username: login.username.clone(), token: None, session: None };
        }
        let missing = login.username.is_empty() || login.password.0.is_empty();
        if missing && !self.optional {
            return refuse(None, "the client gave no user name and password");
        }
        match &self.tokens {
            None => self.ask(login.clone(), None, now, deferred).await,
            Some(tokens) => self.judge_token(tokens, login, prior, (now, fresh), deferred).await,
        }
    }

    async fn judge_token(
        &self,
        tokens: &Tokens,
        login: &LoginFacts,
        prior: Option<&TokenSession>,
        (now, fresh): (u64, TokenSession),
        deferred: impl Fn(Deferral),
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
            return self.ask(login, Some((tokens, session, checked.state)), now, deferred).await;
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

    async fn ask(
        &self,
        login: LoginFacts,
        token: Option<(&Tokens, TokenSession, TokenState)>,
        now: u64,
        deferred: impl Fn(Deferral),
    ) -> Judgement {
        match self.scripts.verify_user_pass(&login, deferred).await {
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

#[cfg(test)]
mod tests {
    use super::super::scripts::{ScriptSetup, UserPassScript};
    use super::*;
    use controlplane::SystemRandom;

    const FRESH: TokenSession = TokenSession { id: [9; 12], begun: 1_000 };

    /// A script that lets `secret` in, and a token that it may be asked about if we think it good. Its first word is
    /// what it says otherwise.
    fn passwords(tokens: Option<Tokens>) -> Passwords {
        let script = "case \"$password:$session_state\" in secret:|secret:Initial) exit 0;; \
            *:Authenticated|*:AuthenticatedEmptyUser) exit 0;; esac; exit 1";
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let setup = ScriptSetup {
            security: 3,
            user_pass_verify: Some(UserPassScript { command, via_env: true }),
            temporary: std::env::temp_dir(),
            ..ScriptSetup::default()
        };
        Passwords { scripts: Scripts::new(setup).unwrap().0, tokens, optional: false }
    }

    fn tokens(external_auth: bool) -> Tokens {
        Tokens::new(10_000, 100, external_auth, Some(&Secret(vec![5; 128])), &mut SystemRandom).unwrap()
    }

    fn login(username: &str, password: &[u8]) -> LoginFacts {
        LoginFacts {
            common_name: "alice".to_owned(),
            username: username.to_owned(),
            password: Secret(password.to_vec()),
            remote: "192.0.2.7:1194".parse().unwrap(),
            certificate: None,
            peer_info: Vec::new(),
            token: None,
            is_in: false,
        }
    }

    #[track_caller]
    fn refused(judgement: Judgement) -> String {
        match judgement {
            Judgement::Refuse { text, reason } => {
                assert!(!reason.is_empty() && !reason.contains("secret"));
                text
            }
            Judgement::Accept { .. } => panic!("accepted"),
        }
    }

    #[track_caller]
    fn accepted(judgement: Judgement) -> (String, Option<Secret>, Option<TokenSession>) {
        match judgement {
            Judgement::Accept { username, token, session } => (username, token, session),
            Judgement::Refuse { reason, .. } => panic!("{reason}"),
        }
    }

    #[tokio::test]
    async fn without_a_script_nothing_is_asked() {
        let (scripts, _) = Scripts::new(ScriptSetup::default()).unwrap();
        let judge = Passwords { scripts, tokens: Some(tokens(false)), optional: false };
        assert_eq!(
            accepted(judge.judge(&login("", b""), None, 1_000, FRESH, |_| ()).await),
            (String::new(), None, None)
        );
    }

    #[tokio::test]
    async fn the_script_decides_and_a_missing_password_is_not_asked_about() {
        let mut judge = passwords(None);
        let result = judge.judge(&login("alice", b"secret"), None, 1_000, FRESH, |_| ()).await;
        assert_eq!(accepted(result), ("alice".to_owned(), None, None));
        assert_eq!(refused(judge.judge(&login("alice", b"wrong"), None, 1_000, FRESH, |_| ()).await), "AUTH_FAILED");
        for (name, password) in [("", b"secret".as_slice()), ("alice", b""), ("", b"")] {
            assert_eq!(refused(judge.judge(&login(name, password), None, 1_000, FRESH, |_| ()).await), "AUTH_FAILED");
        }
        // With auth-user-pass-optional the script is asked all the same.
        judge.optional = true;
        accepted(judge.judge(&login("", b"secret"), None, 1_000, FRESH, |_| ()).await);
        refused(judge.judge(&login("", b""), None, 1_000, FRESH, |_| ()).await);
    }

    #[tokio::test]
    async fn a_token_stands_for_the_password_and_is_renewed() {
        let judge = passwords(Some(tokens(false)));
        let first = accepted(judge.judge(&login("alice", b"secret"), None, 1_000, FRESH, |_| ()).await);
        assert_eq!(first.2, Some(FRESH));
        let token = first.1.unwrap();
        let other = TokenSession { id: [1; 12], begun: 1_100 };
        let second = accepted(judge.judge(&login("alice", &token.0), first.2.as_ref(), 1_100, other, |_| ()).await);
        assert_eq!(second.2, Some(FRESH));
        let renewed = second.1.unwrap();
        assert!(renewed.0 != token.0);
        // 150 seconds later the first is too old, the second is not; a reconnecting client has no prior session.
        let expired = refused(judge.judge(&login("alice", &token.0), None, 1_250, other, |_| ()).await);
        assert_eq!(expired, "AUTH_FAILED,SESSION: token expired");
        let third = accepted(judge.judge(&login("alice", &renewed.0), None, 1_250, other, |_| ()).await);
        assert_eq!(third.2, Some(FRESH), "the lifetime goes on counting");
        assert_eq!(refused(judge.judge(&login("bob", &renewed.0), None, 1_250, other, |_| ()).await), "AUTH_FAILED");
        assert_eq!(
            refused(judge.judge(&login("alice", &renewed.0), Some(&other), 1_250, other, |_| ()).await),
            "AUTH_FAILED"
        );
        let again = accepted(judge.judge(&login("alice", b"secret"), Some(&FRESH), 1_250, other, |_| ()).await);
        assert_eq!(again.2, Some(FRESH), "the password instead of the token keeps the session");
    }

    #[tokio::test]
    async fn a_token_for_nobody_is_good_only_where_the_script_is_asked() {
        let token = tokens(false).issue("", &FRESH, 1_000);
        refused(passwords(Some(tokens(false))).judge(&login("alice", &token.0), None, 1_001, FRESH, |_| ()).await);
        let (username, renewed, session) =
            accepted(passwords(Some(tokens(true))).judge(&login("alice", &token.0), None, 1_001, FRESH, |_| ()).await);
        assert_eq!((username.as_str(), session), ("", Some(FRESH)));
        assert_eq!(tokens(false).check("", &renewed.unwrap().0, 1_001, None).state, TokenState::Authenticated);
    }

    #[tokio::test]
    async fn external_auth_asks_the_script_about_every_token() {
        let judge = passwords(Some(tokens(true)));
        let token = tokens(true).issue("alice", &FRESH, 1_000);
        accepted(judge.judge(&login("alice", &token.0), None, 1_100, FRESH, |_| ()).await);
        let expired = refused(judge.judge(&login("alice", &token.0), None, 1_300, FRESH, |_| ()).await);
        assert_eq!(expired, "AUTH_FAILED,SESSION: token expired");
        let foreign = Tokens::new(0, 100, true, None, &mut SystemRandom).unwrap().issue("alice", &FRESH, 1_000);
        assert_eq!(refused(judge.judge(&login("alice", &foreign.0), None, 1_001, FRESH, |_| ()).await), "AUTH_FAILED");
    }
}
