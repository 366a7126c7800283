//! What is said inside TLS: key messages, peer info, the options string, pushed options and control messages. Text
//! and bytes only; when to say what is decided by `negotiation` and `session`.

pub mod key_method;
pub mod message;
pub mod options;
pub mod peer_info;
pub mod push;
