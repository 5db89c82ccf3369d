//! What a field of a row is used for.

use super::extra::{EXTRAS, Extra};
use super::measured::{TIMES, Time};

/// What a field of a row is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Arrival,
    InputTokens,
    OutputTokens,
    Input,
    Output,
    Session,
    Class,
    Hashes,
    BlockTokens,
    Turn,
    Think,
    Model,
    Adapter,
    EncoderTokens,
    /// Numbers of the tokens of the prompt; with those of the reply they make the block hashes.
    InputIds,
    OutputIds,
    /// Of a run of a server: the name that it gave the request.
    Name,
    Run,
    Status,
    PrefixGroup,
    /// Tokens that the prompt has before those counted as its length.
    PrefixTokens,
    Measured(Time),
    Extra(Extra),
}

pub const ROLES: [Role; ROLE_COUNT] = [
    Role::Arrival,
    Role::InputTokens,
    Role::OutputTokens,
    Role::Input,
    Role::Output,
    Role::Session,
    Role::Class,
    Role::Hashes,
    Role::BlockTokens,
    Role::Turn,
    Role::Think,
    Role::Model,
    Role::Adapter,
    Role::EncoderTokens,
    Role::InputIds,
    Role::OutputIds,
    Role::Name,
    Role::Run,
    Role::Status,
    Role::PrefixGroup,
    Role::PrefixTokens,
    Role::Measured(Time::Queued),
    Role::Measured(Time::Scheduled),
    Role::Measured(Time::FirstToken),
    Role::Measured(Time::LastToken),
    Role::Measured(Time::Queue),
    Role::Measured(Time::Ttft),
    Role::Measured(Time::Tpot),
    Role::Measured(Time::E2e),
    Role::Measured(Time::Prefill),
    Role::Measured(Time::Decode),
    Role::Extra(Extra::Tenant),
    Role::Extra(Extra::Client),
    Role::Extra(Extra::Priority),
    Role::Extra(Extra::MaxTokens),
    Role::Extra(Extra::Acceptance),
    Role::Extra(Extra::Deadline),
    Role::Extra(Extra::Timeout),
    Role::Extra(Extra::Cancel),
    Role::Extra(Extra::ObservedQueue),
    Role::Extra(Extra::ObservedTtft),
    Role::Extra(Extra::ObservedTpot),
    Role::Extra(Extra::ObservedE2e),
    Role::Extra(Extra::ObservedStatus),
    Role::Extra(Extra::Images),
    Role::Extra(Extra::ReasoningTokens),
    Role::Extra(Extra::Request),
    Role::Extra(Extra::DependsOn),
    Role::Extra(Extra::Wait),
    Role::Extra(Extra::OtherWait),
    Role::Extra(Extra::Batch),
    Role::Extra(Extra::ParentSession),
    Role::Extra(Extra::End),
    Role::Extra(Extra::AudioTokens),
    Role::Extra(Extra::VideoTokens),
    Role::Extra(Extra::ReasonRatio),
];

pub const ROLE_COUNT: usize = 21 + TIMES + EXTRAS;

const _: () = assert!(ROLE_COUNT <= 64, "a role is a bit");
/// Bits of all [`Role::Extra`].
pub const EXTRA_BITS: u64 = u64::MAX << (ROLE_COUNT - EXTRAS);

impl Role {
    /// The role's place in [`ROLES`].
    pub fn place(self) -> usize {
        match self {
            Role::Arrival => 0,
            Role::InputTokens => 1,
            Role::OutputTokens => 2,
            Role::Input => 3,
            Role::Output => 4,
            Role::Session => 5,
            Role::Class => 6,
            Role::Hashes => 7,
            Role::BlockTokens => 8,
            Role::Turn => 9,
            Role::Think => 10,
            Role::Model => 11,
            Role::Adapter => 12,
            Role::EncoderTokens => 13,
            Role::InputIds => 14,
            Role::OutputIds => 15,
            Role::Name => 16,
            Role::Run => 17,
            Role::Status => 18,
            Role::PrefixGroup => 19,
            Role::PrefixTokens => 20,
            Role::Measured(time) => 21 + time as usize,
            Role::Extra(extra) => 21 + TIMES + extra as usize,
        }
    }

    pub fn bit(self) -> u64 {
        1 << self.place()
    }

    /// Its values are numbers.
    pub fn is_number(self) -> bool {
        match self {
            Role::Arrival
            | Role::InputTokens
            | Role::OutputTokens
            | Role::BlockTokens
            | Role::Turn
            | Role::Think
            | Role::EncoderTokens
            | Role::InputIds
            | Role::OutputIds
            | Role::PrefixTokens
            | Role::Measured(_) => true,
            Role::Extra(extra) => extra.is_number(),
            // Identifiers of blocks are hashes, which are often too large for a number of JSON.
            Role::Hashes
            | Role::Input
            | Role::Output
            | Role::Session
            | Role::Class
            | Role::Model
            | Role::Adapter
            | Role::Name
            | Role::Run
            | Role::Status
            | Role::PrefixGroup => false,
        }
    }
}
