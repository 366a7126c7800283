//! `auth-gen-token`: a token that stands for a password after the first login, in OpenVPN's format, so that a gateway
//! honours the tokens of a stock server with the same secret and the other way round. Pure: time and chance are
//! parameters.
//!
//! A token is `SESS_ID_AT_` and the base64 of 60 bytes: a session id of 12, when the session began and when the token was
//! made (seconds since 1970, 64 bits, big-endian), and the HMAC-SHA-256 over user name, session id and both times.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use controlplane::crypto::{Digest, ct_eq, hmac};
use controlplane::{Random, Secret};
use zeroize::Zeroizing;

/// What every token begins with.
pub const PREFIX: &str = "SESS_ID_AT_";
/// The length of a token, in characters.
pub const TOKEN_LEN: usize = PREFIX.len() + RAW_LEN / 3 * 4;
/// What a client is told whose token is too old.
pub const EXPIRED_REASON: &str = "SESSION: token expired";

const ID_LEN: usize = 12;
const RAW_LEN: usize = ID_LEN + 8 + 8 + 32;
/// A secret file has two keys of 64 bytes; of the second, the first 32 are used.
const SECRET_LEN: usize = 128;
const KEY: std::ops::Range<usize> = 64..96;
const BEGIN: &str = "-----BEGIN OpenVPN auth-token server key-----";
const END: &str = "-----END OpenVPN auth-token server key-----";

/// `auth-gen-token`, agreed upon: makes tokens and judges them.
#[derive(Clone, Debug)]
pub struct Tokens {
    key: Secret,
    lifetime: u32,
    renewal: u32,
    external_auth: bool,
}

/// What all tokens of one session have in common. Kept with the session, and given again when it renegotiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenSession {
    /// 12 random bytes.
    pub id: [u8; ID_LEN],
    /// When the session began, in seconds since 1970: what the lifetime counts from.
    pub begun: u64,
}

/// What a password was, by the names of the environment variable `session_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// No token: the password of a new login.
    Initial,
    /// A token of ours, of this user, in time.
    Authenticated,
    /// A token of ours, of this user, too old.
    Expired,
    /// No token of ours, or of another session or user.
    Invalid,
    /// Like `Authenticated`, but made for the empty user name.
    AuthenticatedEmptyUser,
    /// Like `Expired`, but made for the empty user name.
    ExpiredEmptyUser,
}

/// The judgement on a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What it is.
    pub state: TokenState,
    /// The session it belongs to, when it is a token of ours.
    pub session: Option<TokenSession>,
}

impl TokenState {
    /// The value of `session_state`.
    pub fn name(self) -> &'static str {
        match self {
            TokenState::Initial => "Initial",
            TokenState::Authenticated => "Authenticated",
            TokenState::Expired => "Expired",
            TokenState::Invalid => "Invalid",
            TokenState::AuthenticatedEmptyUser => "AuthenticatedEmptyUser",
            TokenState::ExpiredEmptyUser => "ExpiredEmptyUser",
        }
    }

    /// Whether the token was made for the empty user name while the client gave another.
    pub fn is_empty_user(self) -> bool {
        matches!(self, TokenState::AuthenticatedEmptyUser | TokenState::ExpiredEmptyUser)
    }
}

impl TokenSession {
    /// A session that begins now (seconds since 1970).
    pub fn begin(rng: &mut dyn Random, now: u64) -> TokenSession {
        let mut id = [0; ID_LEN];
        rng.fill(&mut id);
        TokenSession { id, begun: now }
    }

    /// The value of `session_id`: the id in base64, 16 characters.
    pub fn name(&self) -> String {
        STANDARD.encode(self.id)
    }
}

impl Tokens {
    /// `lifetime` counts from the beginning of a session, 0 is for ever; a token serves for twice `renewal`, 0 as long
    /// as its session; both are seconds. `secret` is what [`secret_of_pem`] gave; without one, a random one is made, and
    /// the tokens of an earlier run are void.
    ///
    /// # Errors
    /// One sentence when the secret is shorter than 128 bytes.
    pub fn new(
        lifetime: u32,
        renewal: u32,
        external_auth: bool,
        secret: Option<&Secret>,
        rng: &mut dyn Random,
    ) -> Result<Tokens, String> {
        let key = match secret {
            Some(secret) if secret.0.len() < SECRET_LEN => {
                return Err(format!("the secret has {} bytes instead of {SECRET_LEN}", secret.0.len()));
            }
            Some(secret) => Secret(secret.0.get(KEY).unwrap_or_default().to_vec()),
            None => {
                let mut key = Secret(vec![0; KEY.len()]);
                rng.fill(&mut key.0);
                key
            }
        };
        Ok(Tokens { key, lifetime, renewal, external_auth })
    }

    /// Whether the script is asked about tokens too (`external-auth`), with what we think of them in its environment.
    pub fn external_auth(&self) -> bool {
        self.external_auth
    }

    /// How often a new token should be pushed, in seconds; 0 is only at renegotiations.
    pub fn renewal(&self) -> u32 {
        self.renewal
    }

    /// The token of a session, made now (seconds since 1970). Later ones of the same session renew it.
    pub fn issue(&self, username: &str, session: &TokenSession, now: u64) -> Secret {
        let (begun, now) = (session.begun.to_be_bytes(), now.to_be_bytes());
        let tag = hmac(Digest::Sha256, &self.key.0, &[username.as_bytes(), &session.id, &begun, &now]);
        let mut raw = Zeroizing::new(Vec::with_capacity(RAW_LEN));
        for part in [session.id.as_slice(), &begun, &now, tag.as_ref()] {
            raw.extend_from_slice(part);
        }
        let mut text = String::with_capacity(TOKEN_LEN);
        text.push_str(PREFIX);
        STANDARD.encode_string(raw.as_slice(), &mut text);
        Secret(text.into_bytes())
    }

    /// What a password is, now (seconds since 1970). `prior` is the session of the token that this client had before.
    pub fn check(&self, username: &str, password: &[u8], now: u64, prior: Option<&TokenSession>) -> Checked {
        if !is_token(password) {
            return Checked { state: TokenState::Initial, session: None };
        }
        let invalid = Checked { state: TokenState::Invalid, session: None };
        let Some(parts) = Parts::of(password) else { return invalid };
        let empty_user = match () {
            () if parts.is_signed(&self.key, username) => false,
            () if parts.is_signed(&self.key, "") => true,
            () => return invalid,
        };
        let session = TokenSession { id: parts.id, begun: parts.begun };
        if prior.is_some_and(|prior| prior.id != session.id) {
            return invalid;
        }
        let state = match (self.in_time(&parts, now), empty_user) {
            (true, false) => TokenState::Authenticated,
            (true, true) => TokenState::AuthenticatedEmptyUser,
            (false, false) => TokenState::Expired,
            (false, true) => TokenState::ExpiredEmptyUser,
        };
        // The first token of a session says when it began.
        Checked { state, session: Some(prior.copied().unwrap_or(session)) }
    }

    fn in_time(&self, parts: &Parts, now: u64) -> bool {
        let fresh = self.renewal == 0 || now < parts.made.saturating_add(2 * u64::from(self.renewal));
        let alive = self.lifetime == 0 || now <= parts.begun.saturating_add(self.lifetime.into());
        parts.begun <= parts.made && parts.made <= now && fresh && alive
    }
}

/// Whether a password is meant as a token.
pub fn is_token(password: &[u8]) -> bool {
    password.starts_with(PREFIX.as_bytes())
}

/// The bytes of a secret file (`auth-gen-token-secret`): base64 between the lines of its kind. What is written around
/// them is ignored.
///
/// # Errors
/// One sentence that says what is wrong, without anything of the secret.
pub fn secret_of_pem(text: &str) -> Result<Secret, String> {
    let body = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(body, _)| body);
    let body = body.ok_or("no auth-token key in it; make one with `openvpn --genkey auth-token FILE`")?;
    let letters: Zeroizing<Vec<u8>> = Zeroizing::new(body.bytes().filter(|c| !c.is_ascii_whitespace()).collect());
    let bytes = STANDARD.decode(letters.as_slice()).map_err(|_| "the auth-token key is not base64")?;
    let secret = Secret(bytes);
    if secret.0.len() < SECRET_LEN {
        return Err(format!("the auth-token key has {} bytes instead of {SECRET_LEN}", secret.0.len()));
    }
    Ok(secret)
}

/// A token, taken apart.
struct Parts {
    id: [u8; ID_LEN],
    begun: u64,
    made: u64,
    tag: [u8; 32],
}

impl Parts {
    fn of(password: &[u8]) -> Option<Parts> {
        let encoded = password.strip_prefix(PREFIX.as_bytes()).filter(|_| password.len() == TOKEN_LEN)?;
        let raw = Zeroizing::new(STANDARD.decode(encoded).ok()?);
        let (id, rest) = raw.split_first_chunk::<ID_LEN>()?;
        let (begun, rest) = rest.split_first_chunk::<8>()?;
        let (made, rest) = rest.split_first_chunk::<8>()?;
        let tag = rest.try_into().ok()?;
        Some(Parts { id: *id, begun: u64::from_be_bytes(*begun), made: u64::from_be_bytes(*made), tag })
    }

    fn is_signed(&self, key: &Secret, username: &str) -> bool {
        let parts: [&[u8]; 4] = [username.as_bytes(), &self.id, &self.begun.to_be_bytes(), &self.made.to_be_bytes()];
        ct_eq(hmac(Digest::Sha256, &key.0, &parts).as_ref(), &self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = "test user name";

    struct Counting(u8);

    impl Random for Counting {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill_with(|| {
                self.0 = self.0.wrapping_add(1);
                self.0
            });
        }
    }

    fn tokens(lifetime: u32, renewal: u32) -> Tokens {
        Tokens::new(lifetime, renewal, false, Some(&Secret(vec![0; 128])), &mut Counting(0)).unwrap()
    }

    fn session(id: &str, begun: u64) -> TokenSession {
        TokenSession { id: STANDARD.decode(id).unwrap().try_into().unwrap(), begun }
    }

    fn text(token: &Secret) -> String {
        String::from_utf8(token.0.clone()).unwrap()
    }

    /// Key and session id are those of OpenVPN's own unit test.
    #[test]
    fn a_token_of_a_zero_key_is_the_known_one() {
        let session = session("0123456789abcdef", 0);
        let expected = "SESS_ID_AT_0123456789abcdefAAAAAAAAAAAAAAAAAAAAAE5JsQJOVfo8jnI3RL3tBaR5NkE4yPfcylFUHmHSc5Bu";
        let token = tokens(0, 120).issue(USER, &session, 0);
        assert_eq!(text(&token), expected);
        assert_eq!(expected.len(), TOKEN_LEN);
        assert_eq!(session.name(), "0123456789abcdef");
        assert_ne!(text(&tokens(0, 120).issue("test user names", &session, 0)), expected);
        assert_ne!(text(&tokens(0, 120).issue(USER, &session, 1)), expected);
    }

    #[test]
    fn a_token_of_a_random_key_is_the_known_one() {
        // Bytes 64..96 of the secret are all that matters.
        let hmac_key = "cf79d5b7ecec27369987dacbdd818768112795c433f0cc7f309637eeee53a356";
        let mut secret = vec![0x55; 64];
        secret.extend((0..64).step_by(2).map(|at| u8::from_str_radix(&hmac_key[at..at + 2], 16).unwrap()));
        secret.extend([0xaa; 160]);
        let tokens = Tokens::new(0, 120, false, Some(&Secret(secret)), &mut Counting(0)).unwrap();
        let expected = "SESS_ID_AT_ThhRItzOKNKrh3dfAAAAAFwzHpwAAAAAXDMenDdrq0RoH3dkA1f7O3wO+7kZcx2DusVZrRmFlWQM9HOb";
        let session = session("ThhRItzOKNKrh3df", 0x5c33_1e9c);
        assert_eq!(text(&tokens.issue(USER, &session, 0x5c33_1e9c)), expected);
        let checked = tokens.check(USER, expected.as_bytes(), 0x5c33_1e9d, None);
        assert_eq!(checked, Checked { state: TokenState::Authenticated, session: Some(session) });
    }

    /// A key file that `openvpn --genkey auth-token` made, and two tokens of one session that a stock 2.6.14 server pushed.
    #[test]
    fn the_tokens_of_a_stock_server_are_honoured() {
        let body = "kJJ8XXOMp6WD9cVsDwublZkFacfKc8Jm+zMS2k7sdPMEHLuEKYOPNbm/V6QK0z1F\nYQ8F/vzlwhhDMIrS6vVWwyafACVQWcmov1r0Jyeb+wfvYuHrtVd9xq1Mqho2iM45\n3A+aS6jaKoWzRutbIrmIxlLduYsgV5ycIUeuJR0EeNw=";
        let secret = secret_of_pem(&format!("{BEGIN}\n{body}\n{END}\n")).unwrap();
        let tokens = Tokens::new(1_000, 200, false, Some(&secret), &mut Counting(0)).unwrap();
        let session = session("HS4zFcZNiRyqZc5h", 0x6b03_4040);
        let user = "us er;$(x)";
        for (made, expected) in [
            (
                0x6b03_4040,
                "SESS_ID_AT_HS4zFcZNiRyqZc5hAAAAAGsDQEAAAAAAawNAQOG13Z1x1YUeQ9H5TgAz5ROu5Vpw/E13W1VmO3LbyKP8",
            ),
            (
                0x6b03_4045,
                "SESS_ID_AT_HS4zFcZNiRyqZc5hAAAAAGsDQEAAAAAAawNARUX/HHXFxPSctJJBOL52aVdJYfMjSZXgPKKqEKt8W7pm",
            ),
        ] {
            let checked = tokens.check(user, expected.as_bytes(), made + 1, Some(&session));
            assert_eq!(checked, Checked { state: TokenState::Authenticated, session: Some(session) });
            assert_eq!(text(&tokens.issue(user, &session, made)), expected);
        }
    }

    #[test]
    fn a_token_serves_for_twice_the_renewal_and_within_its_lifetime() {
        let tokens = tokens(3_000, 120);
        let mut session = TokenSession { id: [7; 12], begun: 100_000 };
        let state = |session: &TokenSession, made: u64, now: u64| {
            tokens.check(USER, &tokens.issue(USER, session, made).0, now, None).state
        };
        for (now, expected) in [
            (99_900, TokenState::Expired),
            (99_999, TokenState::Expired),
            (100_000, TokenState::Authenticated),
            (100_239, TokenState::Authenticated),
            (100_240, TokenState::Expired),
            (103_001, TokenState::Expired),
        ] {
            assert_eq!(state(&session, 100_000, now), expected, "{now}");
        }
        // Renewed all the time, it ends with its lifetime all the same.
        assert_eq!(state(&session, 103_000, 103_000), TokenState::Authenticated);
        assert_eq!(state(&session, 103_001, 103_001), TokenState::Expired);
        // Made before its session began.
        session.begun = 100_010;
        assert_eq!(state(&session, 100_000, 100_020), TokenState::Expired);
    }

    #[test]
    fn zeroes_mean_no_end() {
        let session = TokenSession { id: [7; 12], begun: 100 };
        let endless = tokens(0, 120);
        let made = u64::from(u32::MAX) * 10;
        assert_eq!(
            endless.check(USER, &endless.issue(USER, &session, made).0, made + 1, None).state,
            TokenState::Authenticated
        );
        let unrenewed = tokens(1_000, 0);
        let token = unrenewed.issue(USER, &session, 100);
        assert_eq!(unrenewed.check(USER, &token.0, 1_100, None).state, TokenState::Authenticated);
        assert_eq!(unrenewed.check(USER, &token.0, 1_101, None).state, TokenState::Expired);
    }

    #[test]
    fn a_token_of_another_user_or_key_is_invalid() {
        let ours = tokens(0, 120);
        let token = ours.issue(USER, &TokenSession { id: [7; 12], begun: 100 }, 100);
        assert_eq!(ours.check("somebody", &token.0, 100, None).state, TokenState::Invalid);
        assert_eq!(ours.check("", &token.0, 100, None).state, TokenState::Invalid);
        let foreign = Tokens::new(0, 120, false, None, &mut Counting(0)).unwrap();
        assert_eq!(foreign.check(USER, &token.0, 100, None), Checked { state: TokenState::Invalid, session: None });
    }

    #[test]
    fn every_byte_of_a_token_counts() {
        let ours = tokens(0, 120);
        let token = ours.issue(USER, &TokenSession { id: [7; 12], begun: 100 }, 100).0.clone();
        for at in 0..token.len() {
            let mut other = token.clone();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let state = ours.check(USER, &other, 100, None).state;
            let expected = if at < PREFIX.len() { TokenState::Initial } else { TokenState::Invalid };
            assert_eq!(state, expected, "{at}");
        }
        for other in [&token[..token.len() - 4], &token[..token.len() - 1], PREFIX.as_bytes(), b"SESS_ID_AT_\xff\0"] {
            assert_eq!(ours.check(USER, other, 100, None).state, TokenState::Invalid);
        }
        let longer = [token.as_slice(), b"AAAA"].concat();
        assert_eq!(ours.check(USER, &longer, 100, None).state, TokenState::Invalid);
    }

    #[test]
    fn a_token_for_the_empty_user_is_told_apart() {
        let ours = tokens(0, 120);
        let session = TokenSession { id: [7; 12], begun: 100 };
        let token = ours.issue("", &session, 100);
        let checked = ours.check(USER, &token.0, 100, None);
        assert_eq!(checked, Checked { state: TokenState::AuthenticatedEmptyUser, session: Some(session) });
        assert!(checked.state.is_empty_user());
        assert_eq!(ours.check(USER, &token.0, 340, None).state, TokenState::ExpiredEmptyUser);
        assert_eq!(ours.check("", &token.0, 100, None).state, TokenState::Authenticated);
    }

    #[test]
    fn a_token_stays_with_its_session() {
        let ours = tokens(1_000, 120);
        let (first, second) = (TokenSession { id: [7; 12], begun: 100 }, TokenSession { id: [8; 12], begun: 100 });
        let token = ours.issue(USER, &first, 150);
        assert_eq!(ours.check(USER, &token.0, 200, Some(&first)).session, Some(first));
        assert_eq!(ours.check(USER, &token.0, 200, Some(&second)).state, TokenState::Invalid);
        let begin = TokenSession::begin(&mut Counting(0), 9);
        assert_eq!(begin, TokenSession { id: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], begun: 9 });
    }

    #[test]
    fn a_password_is_no_token() {
        for password in [b"hunter2".as_slice(), b"", b"SESS_ID_A", b"sess_id_at_AAAA"] {
            assert_eq!(
                tokens(0, 1).check(USER, password, 0, None),
                Checked { state: TokenState::Initial, session: None }
            );
        }
    }

    #[test]
    fn a_secret_file_is_read_whole_or_refused() {
        let bytes: Vec<u8> = (0..128).collect();
        let encoded = STANDARD.encode(&bytes);
        let file = |body: &str| format!("# made today\n{BEGIN}\n{body}\n{END}\n");
        let lines: String =
            encoded.as_bytes().chunks(64).map(|line| format!("{}\r\n", String::from_utf8_lossy(line))).collect();
        assert_eq!(secret_of_pem(&file(&lines)).unwrap().0, bytes);
        for wrong in [file(&encoded[4..]), file("?"), encoded.clone(), format!("{BEGIN}\n{encoded}"), String::new()] {
            let sentence = secret_of_pem(&wrong).unwrap_err();
            assert!(!sentence.contains(&encoded[8..16]), "{sentence}");
        }
        assert!(Tokens::new(0, 0, false, Some(&Secret(vec![0; 127])), &mut Counting(0)).is_err());
    }
}
