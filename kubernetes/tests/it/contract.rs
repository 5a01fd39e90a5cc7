//! What a Kubernetes API server does, as far as Pointsman counts on it: the same cases on the fake of `chaos`, which
//! every other test of the control path stands on, and on the cluster of `KUBECONFIG`, in a namespace of its own. So
//! the fake cannot drift from the truth. Cases about what controllers do are left out on a control plane that has none.

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
                pointsman_testbed::on_the_fake(super::$case).await;
            })+
        }
        mod on_a_cluster {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                pointsman_testbed::on_a_cluster(stringify!($case), super::$case).await;
            })+
        }
    };
}
pub(crate) use contract;
