// A TURN server as small as pion makes it, for ../compare: every listener relays from one IPv4
// address, with pion's defaults for all else. Prints "ready" and serves until it is ended.
//
// usage: pion REALM RELAY_ADDRESS LISTEN:PORT[,LISTEN:PORT] USER:PASSWORD...
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/pion/turn/v4"
)

func run(arguments []string) error {
	if len(arguments) < 4 {
		return fmt.Errorf("usage: pion REALM RELAY_ADDRESS LISTEN:PORT[,...] USER:PASSWORD...")
	}
	realm, relay := arguments[0], net.ParseIP(arguments[1])
	keys := map[string][]byte{}
	for _, account := range arguments[3:] {
		user, password, _ := strings.Cut(account, ":")
		keys[user] = turn.GenerateAuthKey(user, realm, password)
	}
	config := turn.ServerConfig{
		Realm: realm,
		AuthHandler: func(user, _ string, _ net.Addr) ([]byte, bool) {
			key, known := keys[user]
			return key, known
		},
	}
	for _, listen := range strings.Split(arguments[2], ",") {
		socket, err := net.ListenPacket("udp", listen)
		if err != nil {
			return err
		}
		config.PacketConnConfigs = append(config.PacketConnConfigs, turn.PacketConnConfig{
			PacketConn: socket,
			RelayAddressGenerator: &turn.RelayAddressGeneratorStatic{
				RelayAddress: relay, Address: relay.String()},
		})
	}
	server, err := turn.NewServer(config)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	<-ended
	return server.Close()
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
