//! What the parts of a gateway are made of: the control plane, sockets, the pool, what judges passwords, how packets are steered. Each follows
//! from the configuration, at the start and at a reload.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use controlplane::{Ending, Random, ReplyLimit, Secret, ServerSetup};
use dataplane::sys::socket::{self, SocketOptions};
use dataplane::sys::steering::Steering;

use super::leases;
use super::password::Passwords;
use super::pool::Pool;
use super::scripts::{Beside4, GatewayFacts, Inner4, Inner6, ScriptSetup, Scripts, UserPassScript};
use super::token::Tokens;
use crate::cli::gateway::GatewayServe;
use crate::clock;
use crate::config::agreed::MtuDiscovery;
use crate::config::server::{self, ServerProfile};
use crate::exit::{Exit, Fatal};

pub(super) fn socket_options(profile: &ServerProfile, options: &GatewayServe) -> SocketOptions {
    let bytes = |size: Option<u32>| size.and_then(|n| usize::try_from(n).ok());
    SocketOptions {
        bind: Some(profile.listen.socket_address()),
        remote: None,
        only_v6: profile.listen.ipv6_only,
        mtu_discovery: profile.mtu_disc.map(|wish| match wish {
            MtuDiscovery::No => socket::MtuDiscovery::No,
            MtuDiscovery::Maybe => socket::MtuDiscovery::Maybe,
            MtuDiscovery::Yes => socket::MtuDiscovery::Yes,
        }),
        mark: profile.mark,
        device: profile.bind_dev.clone(),
        receive_buffer: bytes(profile.rcvbuf),
        send_buffer: bytes(profile.sndbuf),
        busy_poll_us: (options.data.busy_poll > 0).then_some(options.data.busy_poll),
    }
}

/// The control plane's part of the configuration. Generations begin at `first`.
pub(super) fn server_setup(profile: &ServerProfile, cookie_secret: &Secret, workers: u16, first: u32) -> ServerSetup {
    ServerSetup {
        wrap: profile.wrap.clone(),
        tls: profile.tls.clone(),
        client_certificate: match profile.client_certificate {
            server::ClientCertificate::Require => controlplane::ClientCertificate::Require,
            server::ClientCertificate::Optional => controlplane::ClientCertificate::Optional,
            server::ClientCertificate::None => controlplane::ClientCertificate::None,
        },
        data_ciphers: profile.data_ciphers.clone(),
        fallback_cipher: profile.fallback_cipher,
        auth: profile.auth,
        tun_mtu: profile.tun_mtu,
        tls_timeout: profile.timers.tls_timeout,
        hand_window: profile.timers.hand_window,
        tran_window: profile.timers.tran_window,
        reneg_sec: profile.timers.reneg_sec,
        max_packet_size: profile.max_packet_size,
        limits: profile.timers.key_limits(),
        max_clients: profile.max_clients,
        cookie_secret: cookie_secret.clone(),
        replies: ReplyLimit { count: profile.connect_freq_initial.0, seconds: profile.connect_freq_initial.1 },
        workers,
        first_generation: first,
    }
}

/// A configuration that the control process cannot use, in a sentence.
pub(super) fn refused(ending: &Ending) -> Fatal {
    match ending {
        Ending::Tls(sentence) => Fatal::new(Exit::Tls, sentence.clone()),
        Ending::Incompatible(sentence) | Ending::Internal(sentence) => Fatal::new(Exit::Config, sentence.clone()),
        other => Fatal::new(Exit::Other, format!("{other:?}")),
    }
}

/// What judges passwords.
///
/// # Errors
/// [`Exit::Config`]: a script that may not or cannot be run, a secret that is too short.
pub(super) fn passwords(
    profile: &ServerProfile,
    gateway: &GatewayFacts,
    rng: &mut dyn Random,
) -> Result<Passwords, Fatal> {
    let wrong = |sentence: String| Fatal::new(Exit::Config, sentence);
    let setup = ScriptSetup {
        security: profile.script_security,
        user_pass_verify: profile
            .user_pass_verify
            .clone()
            .map(|script| UserPassScript { command: script.command, via_env: script.via_env }),
        tls_verify: profile.tls_verify.clone(),
        client_connect: profile.client_connect.clone(),
        client_disconnect: profile.client_disconnect.clone(),
        learn_address: profile.learn_address.clone(),
        limit: Duration::from_secs(u64::from(profile.timers.hand_window)),
        temporary: profile.tmp_dir.clone(),
        directory: profile.directory.clone(),
        gateway: gateway.clone(),
    };
    let (scripts, warnings) = Scripts::new(setup).map_err(wrong)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let tokens = profile.auth_gen_token.as_ref().map(|wish| {
        let renewal = token_renewal(wish.renewal, profile.timers.reneg_sec);
        Tokens::new(wish.lifetime, renewal, wish.external_auth, wish.secret.as_ref(), rng)
    });
    let tokens = tokens.transpose().map_err(|why| wrong(format!("auth-gen-token-secret: {why}")))?;
    Ok(Passwords { scripts, tokens, optional: profile.user_pass_optional })
}

/// How often a token is renewed: at renegotiations only, whatever shorter time `auth-gen-token` wishes, and a client must
/// not lose its session by a token that nobody renewed in time. 0: nobody knows when, so a token is good as long as its session.
fn token_renewal(wish: Option<u32>, reneg_sec: u32) -> u32 {
    match (wish, reneg_sec) {
        (_, 0) | (Some(0), _) => 0,
        (wish, reneg_sec) => wish.unwrap_or(reneg_sec).max(reneg_sec),
    }
}

pub(super) fn gateway_facts(profile: &ServerProfile, device: &str, listen: SocketAddr) -> GatewayFacts {
    GatewayFacts {
        config: profile.files.config.display().to_string(),
        device: device.to_owned(),
        tun_mtu: u32::from(profile.tun_mtu),
        local_port: listen.port(),
        ipv4: profile.ipv4.map(|pool| Inner4 {
            address: pool.local,
            beside: pool.peer.map_or(Beside4::Netmask(pool.netmask), Beside4::OtherEnd),
        }),
        ipv6: profile.ipv6.map(|pool| Inner6 { address: pool.local, prefix: pool.prefix, other_end: pool.local }),
        verb: 1,
        since: clock::now().unix,
        setenv: profile.setenv.clone(),
    }
}

pub(super) fn pool(profile: &ServerProfile, workers: usize) -> Pool {
    let workers = u16::try_from(workers).unwrap_or(1);
    let mut pool = Pool::new(profile.ipv4.as_ref(), profile.ipv6.as_ref(), profile.topology, workers);
    if let Some((path, _)) = &profile.pool_persist {
        let path = profile.directory.join(path);
        match leases::load(&path, &mut pool) {
            Ok(0) => {}
            Ok(count) => tracing::info!("{count} leases are remembered from {}", path.display()),
            Err(error) => tracing::warn!("{}: leases cannot be read: {error}", path.display()),
        }
        pool.take_changed();
    }
    pool
}

/// Where the kernel takes no routes, inner destinations count from the network's first address, as leases do.
pub(super) fn steering(profile: &ServerProfile, workers: u16) -> Steering {
    let base_v4 = profile.ipv4.map_or(Ipv4Addr::UNSPECIFIED, |pool| pool.network);
    // The IPv6 address of a lease is then as far from its base as the IPv4 address is.
    let ahead = profile.ipv4.map_or(0, |pool| pool.pool_start.to_bits().wrapping_sub(pool.network.to_bits()));
    let base_v6 = profile.ipv6.map_or(0, |pool| pool.base.to_bits()).wrapping_sub(u128::from(ahead));
    Steering { workers, base_v4, base_v6: Ipv6Addr::from_bits(base_v6) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::profile;
    use controlplane::SystemRandom;

    #[test]
    fn a_token_is_good_until_it_is_renewed() {
        // wish, reneg-sec, what a token's life is twice of
        let table = [
            (None, 3_600, 3_600),
            (Some(60), 3_600, 3_600),
            (Some(7_200), 3_600, 7_200),
            (Some(600), 30, 600),
            (Some(60), 0, 0),
            (None, 0, 0),
        ];
        for (wish, reneg_sec, expected) in table {
            assert_eq!(token_renewal(wish, reneg_sec), expected, "{wish:?} {reneg_sec}");
        }
        let mut profile = profile();
        profile.timers.reneg_sec = 3_600;
        profile.auth_gen_token =
            Some(server::AuthGenToken { lifetime: 0, renewal: Some(60), external_auth: false, secret: None });
        let passwords = passwords(&profile, &GatewayFacts::default(), &mut SystemRandom).unwrap();
        let tokens = passwords.tokens.unwrap();
        let session = super::super::token::TokenSession { id: [1; 12], begun: 1_000 };
        let token = tokens.issue("alice", &session, 1_000);
        let state = |now| tokens.check("alice", &token.0, now, None).state.name();
        assert_eq!((state(1_000 + 3_600), state(1_000 + 7_200)), ("Authenticated", "Expired"));
    }

    #[test]
    fn the_control_plane_hears_what_the_configuration_says() {
        let mut profile = profile();
        profile.client_certificate = server::ClientCertificate::Optional;
        profile.connect_freq_initial = (7, 3);
        let setup = server_setup(&profile, &Secret(vec![1; 32]), 3, 9);
        assert_eq!(setup.client_certificate, controlplane::ClientCertificate::Optional);
        assert_eq!((setup.workers, setup.first_generation, setup.max_clients), (3, 9, 1_024));
        assert_eq!((setup.replies.count, setup.replies.seconds), (7, 3));
    }
}
