use std::sync::Arc;

use super::Door;
use super::service::Service;
use crate::diag::Result;

pub async fn serve(service: Arc<Service>, door: Door) -> Result<()> {
    drop(door);
    service.stop.cancelled().await;
    Ok(())
}
