#include "dataplane/io/dpdk/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace culvert {

namespace {

[[noreturn]] void fail(const std::string& name, const std::string& what, const std::string& why) {
  throw std::runtime_error("interface " + name + " for dpdk.kernel = \"tap\": " + what + ": " +
                           why);
}

[[noreturn]] void fail_errno(const std::string& name, const std::string& what) {
  const int error = errno;
  std::string why = std::strerror(error);
  if (error == EBUSY)
    why += " (another relay in this network namespace has it: give each one of its own)";
  if (error == EPERM || error == EACCES) why += " (start culvertd as root)";
  fail(name, what, why);
}

void request(int socket, unsigned long call, ifreq& what, const std::string& name,
             const char* words) {
  if (ioctl(socket, call, &what) != 0) fail_errno(name, words);
}

// Best effort: a kernel without IPv6 has no such file, and then refuses the address itself.
void set_ipv6(const std::string& name, const char* key, const char* value) {
  const std::string path = "/proc/sys/net/ipv6/conf/" + name + "/" + key;
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  (void)!write(fd, value, std::strlen(value));
  (void)close(fd);
}

struct NlFree {
  void operator()(nl_sock* s) const { nl_socket_free(s); }
  void operator()(rtnl_addr* a) const { rtnl_addr_put(a); }
  void operator()(nl_addr* a) const { nl_addr_put(a); }
};

void add_addresses(const std::string& name, unsigned if_index,
                   std::span<const PortAddress> addresses) {
  const std::unique_ptr<nl_sock, NlFree> socket(nl_socket_alloc());
  if (socket == nullptr || nl_connect(socket.get(), NETLINK_ROUTE) < 0)
    fail(name, "cannot be given addresses", "no netlink socket");
  for (const PortAddress& a : addresses) {
    const std::unique_ptr<rtnl_addr, NlFree> entry(rtnl_addr_alloc());
    const std::unique_ptr<nl_addr, NlFree> local(nl_addr_build(
        a.ip.is_v4() ? AF_INET : AF_INET6, const_cast<uint8_t*>(a.ip.wire()), a.ip.size()));
    nl_addr_set_prefixlen(local.get(), a.prefix_bits);
    rtnl_addr_set_ifindex(entry.get(), static_cast<int>(if_index));
    (void)rtnl_addr_set_local(entry.get(), local.get());
    // The port's network is asked by nobody yet: duplicates are the operator's to avoid, as on any
    // host with fixed addresses.
    if (a.ip.is_v6()) rtnl_addr_set_flags(entry.get(), IFA_F_NODAD);
    if (const int error = rtnl_addr_add(socket.get(), entry.get(), 0); error < 0)
      fail(name, "does not take " + a.ip.to_string(), nl_geterror(error));
  }
}

}  // namespace

Tap::Tap(const std::string& name, const frame::MacAddress& mac, uint16_t mtu,
         std::span<const PortAddress> addresses)
    : name_(name), fd_(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)) {
  if (fd_ < 0) fail_errno(name, "cannot open /dev/net/tun");
  const int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  try {
    if (control < 0) fail_errno(name, "needs a socket");
    ifreq r{};
    name.copy(r.ifr_name, sizeof r.ifr_name - 1);
    r.ifr_flags = IFF_TAP | IFF_NO_PI;
    request(fd_, TUNSETIFF, r, name, "cannot be made");
    r.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    std::memcpy(r.ifr_hwaddr.sa_data, mac.data(), mac.size());
    request(control, SIOCSIFHWADDR, r, name, "does not take the port's link address");
    r.ifr_mtu = mtu;
    request(control, SIOCSIFMTU, r, name, "does not take the port's MTU");
    set_ipv6(name, "disable_ipv6", "0");
    set_ipv6(name, "accept_dad", "0");
    request(control, SIOCGIFFLAGS, r, name, "has no flags");
    r.ifr_flags |= IFF_UP;
    request(control, SIOCSIFFLAGS, r, name, "cannot be set up");
    request(control, SIOCGIFINDEX, r, name, "has no index");
    if_index_ = static_cast<unsigned>(r.ifr_ifindex);
    add_addresses(name, if_index_, addresses);
  } catch (...) {
    if (control >= 0) (void)close(control);
    (void)close(fd_);
    throw;
  }
  (void)close(control);
}

Tap::~Tap() {
  (void)close(fd_);
}

}  // namespace culvert
