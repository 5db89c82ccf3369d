//! Splitwise-sim: CSV `request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size`, the
//! time in seconds. The application is the tenant. `batch_size` is 1 in every published trace; a row of another size is
//! refused, as it would stand for several requests. `request_id` and `request_type` (2: generation) are not kept.

use super::Layout;
use super::extra::Extra;
use super::fields::{Fields, Role};
use crate::spec::TimeUnit;

pub const NAMES: [&str; 3] = ["arrival_timestamp", "prompt_size", "token_size"];

pub fn fields() -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::S)
        .required(Role::Arrival, NAMES[0])
        .required(Role::InputTokens, NAMES[1])
        .required(Role::OutputTokens, NAMES[2])
        .optional(Role::Extra(Extra::Tenant), "application_id")
        .optional(Role::Extra(Extra::Batch), "batch_size")
}
