//! The whole of it on an API server: the real edge as a process outside the cluster, which finds its versions there, moves a
//! live Service and keeps its state on it. Each story runs three times: on the fake of `chaos`, on the fake without its
//! controllers, as API server and etcd alone are, and on the cluster of `KUBECONFIG`, in a namespace of its own.
//!
//! Edges reach the server through a relay that a story can cut; pods are objects without containers, at whose addresses fake
//! models answer on this machine.

mod discovery;
mod foreign;
mod leaders;
mod outage;
mod promotion;
mod rollback;
mod stage;

/// Makes three tests of each story.
macro_rules! stories {
    ($($story:ident),+ $(,)?) => {
        mod on_the_fake {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                pointsman_testbed::on_the_fake(super::$story).await;
            })+
        }
        mod on_a_bare_fake {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                pointsman_testbed::on_a_bare_fake(super::$story).await;
            })+
        }
        mod on_a_cluster {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                pointsman_testbed::on_a_cluster(stringify!($story), super::$story).await;
            })+
        }
    };
}
pub(crate) use stories;
