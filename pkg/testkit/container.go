package testkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	tcnetwork "github.com/testcontainers/testcontainers-go/network"

	"github.com/welfarehub/welfarehub/pkg/apachekafka"
)

// Containers need a Docker engine and the images that KAFKA_IMAGE and CLICKHOUSE_IMAGE name; deploy/images/run.sh
// provides all of them and runs a command with them.
const (
	envKafkaImage      = "KAFKA_IMAGE"
	envClickHouseImage = "CLICKHOUSE_IMAGE"
	defaultKafka       = "apache/kafka:4.1.1"
	defaultClickHouse  = "clickhouse/clickhouse-server:26.7"

	containerPassword = "test"
	dockerTimeout     = 30 * time.Second
)

// containerised is a server in a container on a network of its own, so that it can be cut off. Its host ports are fixed,
// because those that Docker picks change at each restart and reconnect.
type containerised struct {
	name      string
	container testcontainers.Container
	network   *testcontainers.DockerNetwork
	docker    *testcontainers.DockerClient
	ready     func(ctx context.Context) error
}

func newKafkaContainer() (*Server, error) {
	addrs, err := apachekafka.FreeAddrs(1)
	if err != nil {
		return nil, err
	}
	c, err := runContainer("kafka", image(envKafkaImage, defaultKafka), map[string]string{"9092/tcp": addrs[0]}, map[string]string{
		"KAFKA_NODE_ID":                                  "1",
		"KAFKA_PROCESS_ROLES":                            "broker,controller",
		"KAFKA_CONTROLLER_QUORUM_VOTERS":                 "1@localhost:9093",
		"KAFKA_LISTENERS":                                "PLAINTEXT://0.0.0.0:9092,BROKER://0.0.0.0:9094,CONTROLLER://localhost:9093",
		"KAFKA_ADVERTISED_LISTENERS":                     "PLAINTEXT://" + addrs[0] + ",BROKER://localhost:9094",
		"KAFKA_LISTENER_SECURITY_PROTOCOL_MAP":           "PLAINTEXT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"KAFKA_CONTROLLER_LISTENER_NAMES":                "CONTROLLER",
		"KAFKA_INTER_BROKER_LISTENER_NAME":               "BROKER",
		"KAFKA_AUTO_CREATE_TOPICS_ENABLE":                "false",
		"KAFKA_MESSAGE_MAX_BYTES":                        "2097152",
		"KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS":             "1",
		"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR":         "1",
		"KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
		"KAFKA_TRANSACTION_STATE_LOG_MIN_ISR":            "1",
		"KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS":         "0",
		"KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS":             "1000",
		"CLUSTER_ID":                                     apachekafka.ClusterID,
	})
	if err != nil {
		return nil, err
	}
	c.ready = func(ctx context.Context) error { return apachekafka.Await(ctx, addrs[0], nil) }
	if err := c.awaitFirst(); err != nil {
		return nil, err
	}
	return &Server{Addr: addrs[0], kind: "Kafka container", back: c}, nil
}

func newClickHouseContainer() (*Server, error) {
	addrs, err := apachekafka.FreeAddrs(2)
	if err != nil {
		return nil, err
	}
	c, err := runContainer("clickhouse", image(envClickHouseImage, defaultClickHouse), map[string]string{"9000/tcp": addrs[0], "8123/tcp": addrs[1]}, map[string]string{
		"CLICKHOUSE_USER": "hub", "CLICKHOUSE_PASSWORD": containerPassword, "CLICKHOUSE_DB": "welfare", "CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT": "1",
	})
	if err != nil {
		return nil, err
	}
	dsn := (&url.URL{Scheme: "clickhouse", User: url.UserPassword("hub", containerPassword), Host: addrs[0], Path: "/welfare"}).String()
	c.ready = func(ctx context.Context) error { return awaitClickHouse(ctx, dsn) }
	if err := c.awaitFirst(); err != nil {
		return nil, err
	}
	return &Server{Addr: addrs[0], HTTP: addrs[1], DSN: dsn, kind: "ClickHouse container", back: c}, nil
}

func image(env, vendor string) string {
	if name := os.Getenv(env); name != "" {
		return name
	}
	return vendor
}

// runContainer starts an image with the container ports published on the given addresses.
func runContainer(name, image string, ports, env map[string]string) (*containerised, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	docker, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		return nil, missingf("containers need a Docker engine: %w; run the tests by deploy/images/run.sh", err)
	}
	c := &containerised{name: name, docker: docker}
	if c.network, err = tcnetwork.New(ctx); err != nil {
		docker.Close()
		return nil, missingf("make a container network: %w; run the tests by deploy/images/run.sh", err)
	}
	bindings := network.PortMap{}
	var exposed []string
	for port, addr := range ports {
		host, hostPort, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("publish port %s: %w", port, err), c.remove())
		}
		p, err := network.ParsePort(port)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("publish port %s: %w", port, err), c.remove())
		}
		bindings[p] = []network.PortBinding{{HostIP: netip.MustParseAddr(host), HostPort: hostPort}}
		exposed = append(exposed, port)
	}
	c.container, err = testcontainers.Run(ctx, image,
		testcontainers.WithExposedPorts(exposed...),
		testcontainers.WithEnv(env),
		testcontainers.WithHostConfigModifier(func(hc *container.HostConfig) { hc.PortBindings = bindings }),
		tcnetwork.WithNetwork([]string{name}, c.network),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("run image %s: %w", image, err), c.remove())
	}
	return c, nil
}

// awaitFirst waits for the first answer, and clears up if there is none.
func (c *containerised) awaitFirst() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	err := c.ready(ctx)
	if err == nil {
		return nil
	}
	ctx, cancel = context.WithTimeout(context.Background(), dockerTimeout)
	defer cancel()
	state := "unknown"
	if st, stateErr := c.container.State(ctx); stateErr == nil {
		state = string(st.Status) + ", exit code " + strconv.Itoa(st.ExitCode)
	}
	if logs, logErr := c.container.Logs(ctx); logErr == nil {
		raw, _ := io.ReadAll(io.LimitReader(logs, 1<<20)) // only for the message
		logs.Close()
		state += ", said: " + strings.ReplaceAll(LastLines(string(raw), 5), "\n", " | ")
	}
	return errors.Join(fmt.Errorf("%w (container: %s)", err, state), c.remove())
}

// call runs one request to the Docker engine.
func (c *containerised) call(what string, f func(ctx context.Context, id string) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), dockerTimeout)
	defer cancel()
	if err := f(ctx, c.container.GetContainerID()); err != nil {
		return fmt.Errorf("%s container %s: %w", what, c.name, err)
	}
	return nil
}

func (c *containerised) kill() error {
	err := c.call("kill", func(ctx context.Context, id string) error {
		_, err := c.docker.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: "SIGKILL"})
		return err
	})
	if err != nil {
		return err
	}
	// The engine answers before the processes are gone; a start right then would find them alive.
	return c.call("wait for", func(ctx context.Context, id string) error {
		wait := c.docker.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
		select {
		case <-wait.Result:
			return nil
		case err := <-wait.Error:
			return err
		}
	})
}

func (c *containerised) start(ctx context.Context) error {
	if err := c.container.Start(ctx); err != nil {
		return fmt.Errorf("start container %s: %w", c.name, err)
	}
	return c.ready(ctx)
}

func (c *containerised) pause() error {
	return c.call("pause", func(ctx context.Context, id string) error {
		_, err := c.docker.ContainerPause(ctx, id, client.ContainerPauseOptions{})
		return err
	})
}

func (c *containerised) resume() error {
	return c.call("resume", func(ctx context.Context, id string) error {
		_, err := c.docker.ContainerUnpause(ctx, id, client.ContainerUnpauseOptions{})
		return err
	})
}

func (c *containerised) cut() error {
	return c.call("cut off", func(ctx context.Context, id string) error {
		_, err := c.docker.NetworkDisconnect(ctx, c.network.ID, client.NetworkDisconnectOptions{Container: id, Force: true})
		return err
	})
}

func (c *containerised) mend() error {
	return c.call("reconnect", func(ctx context.Context, id string) error {
		_, err := c.docker.NetworkConnect(ctx, c.network.ID, client.NetworkConnectOptions{Container: id})
		return err
	})
}

func (c *containerised) close() { _ = c.remove() } // run.sh removes what is left

func (c *containerised) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), dockerTimeout)
	defer cancel()
	var errs []error
	if c.container != nil {
		// Terminate waits for a good end; nobody needs one.
		_, err := c.docker.ContainerRemove(ctx, c.container.GetContainerID(), client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		errs = append(errs, err)
	}
	errs = append(errs, c.network.Remove(ctx), c.docker.Close())
	return errors.Join(errs...)
}
