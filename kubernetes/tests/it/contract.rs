//! What a Kubernetes API server does, as far as Pointsman counts on it: the same cases on the fake of `chaos`, which
//! every other test of the control path stands on, and on the cluster of `KUBECONFIG`, in a namespace of its own. So
//! the fake cannot drift from the truth.
//!
//! Without `KUBECONFIG` the cases on a cluster are left out; `REQUIRE_KUBERNETES=1` makes that a failure.

mod cluster;
mod events;
mod leases;
mod objects;
mod ownership;
mod patches;
mod scale;
mod slices;
mod watches;

/// Makes two tests of each case: one on the fake, one on the cluster.
macro_rules! contract {
    ($($case:ident),+ $(,)?) => {
        mod on_the_fake {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                crate::contract::cluster::on_the_fake(|cluster| super::$case(cluster)).await;
            })+
        }
        mod on_a_cluster {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                crate::contract::cluster::on_a_cluster(stringify!($case), |cluster| super::$case(cluster)).await;
            })+
        }
    };
}
pub(crate) use contract;
