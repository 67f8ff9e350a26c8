// Two pion TURN clients that talk to each other through the relay, by ChannelData and, before the channels
// are bound, by Send and Data indications. Run by ../pion_test.py.
//
// usage: pion ADDRESS:PORT USER PASSWORD REALM MESSAGES
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v2"
)

const receiveTimeout = 10 * time.Second

type relayedClient struct {
	client *turn.Client
	conn   net.PacketConn
	socket net.PacketConn
}

func allocate(server, user, password, realm string) (*relayedClient, error) {
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return nil, err
	}
	socket, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	client, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: server,
		TURNServerAddr: server,
		Conn:           socket,
		Username:       user,
		Password:       password,
		Realm:          realm,
		LoggerFactory:  logging.NewDefaultLoggerFactory(),
	})
	if err != nil {
		return nil, err
	}
	if err = client.Listen(); err != nil {
		return nil, err
	}
	mapped, err := client.SendBindingRequest()
	if err != nil {
		return nil, fmt.Errorf("binding: %w", err)
	}
	if mapped.String() != socket.LocalAddr().String() {
		return nil, fmt.Errorf("binding says %v, the socket is %v", mapped, socket.LocalAddr())
	}
	conn, err := client.Allocate()
	if err != nil {
		return nil, fmt.Errorf("allocate: %w", err)
	}
	return &relayedClient{client: client, conn: conn, socket: socket}, nil
}

func (c *relayedClient) close() {
	_ = c.conn.Close()
	c.client.Close()
	_ = c.socket.Close()
}

// carry sends one numbered message and takes it on the other side.
func carry(from, to *relayedClient, number int) error {
	message := fmt.Sprintf("message %d", number)
	if _, err := from.conn.WriteTo([]byte(message), to.conn.LocalAddr()); err != nil {
		return err
	}
	if err := to.conn.SetReadDeadline(time.Now().Add(receiveTimeout)); err != nil {
		return err
	}
	buffer := make([]byte, 2048)
	n, source, err := to.conn.ReadFrom(buffer)
	if err != nil {
		return fmt.Errorf("message %d: %w", number, err)
	}
	if string(buffer[:n]) != message {
		return fmt.Errorf("message %d came as %q", number, buffer[:n])
	}
	if source.String() != from.conn.LocalAddr().String() {
		return fmt.Errorf("message %d came from %v, not %v", number, source, from.conn.LocalAddr())
	}
	return nil
}

func run(arguments []string) error {
	if len(arguments) != 5 {
		return fmt.Errorf("usage: pion ADDRESS:PORT USER PASSWORD REALM MESSAGES")
	}
	messages, err := strconv.Atoi(arguments[4])
	if err != nil {
		return err
	}
	a, err := allocate(arguments[0], arguments[1], arguments[2], arguments[3])
	if err != nil {
		return err
	}
	defer a.close()
	b, err := allocate(arguments[0], arguments[1], arguments[2], arguments[3])
	if err != nil {
		return err
	}
	defer b.close()
	fmt.Println("relayed", a.conn.LocalAddr(), b.conn.LocalAddr())
	// WriteTo permits the peer it writes to; the other direction's permission has to come first.
	if err = b.client.CreatePermission(a.conn.LocalAddr()); err != nil {
		return fmt.Errorf("create permission: %w", err)
	}
	for number := 0; number < messages; number++ {
		if err = carry(a, b, number); err != nil {
			return err
		}
		if err = carry(b, a, number); err != nil {
			return err
		}
	}
	fmt.Printf("exchanged %d each way\n", messages)
	return nil
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
