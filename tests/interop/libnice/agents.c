// Two libnice agents in one process that may use only relayed candidates (force-relay) and exchange
// messages both ways. Run by ../libnice_test.py.
//
// usage: agents ADDRESS PORT USER PASSWORD MESSAGES
#include <agent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kComponent = 1, kTimeoutSeconds = 40, kMessageBytes = 64 };

typedef struct {
  const char* name;
  NiceAgent* agent;
  guint stream;
  gboolean gathered;
  gboolean ready;
  int received;
} Side;

typedef struct {
  GMainLoop* loop;
  Side a;
  Side b;
  int messages;
  gboolean introduced;
  gboolean failed;
} Call;

static Call call;

static void fail(const char* what) {
  fprintf(stdout, "error: %s\n", what);
  call.failed = TRUE;
  g_main_loop_quit(call.loop);
}

static Side* other(Side* side) { return side == &call.a ? &call.b : &call.a; }

// One message each way at a time: nothing can be lost to a full buffer, so a loss is the relay's.
static void send_next(Side* from) {
  char text[kMessageBytes] = {0};
  snprintf(text, sizeof text, "%s %d", from->name, other(from)->received);
  if (nice_agent_send(from->agent, from->stream, kComponent, sizeof text, text) != sizeof text) {
    fail("nice_agent_send");
  }
}

static void on_receive(NiceAgent* agent, guint stream, guint component, guint length, gchar* data,
                       gpointer user) {
  (void)agent;
  (void)stream;
  (void)component;
  Side* side = user;
  char expected[kMessageBytes] = {0};
  snprintf(expected, sizeof expected, "%s %d", other(side)->name, side->received);
  if (length != sizeof expected || memcmp(data, expected, sizeof expected) != 0) {
    fail("a message came out of order or changed");
    return;
  }
  side->received++;
  if (call.a.received == call.messages && call.b.received == call.messages) {
    g_main_loop_quit(call.loop);
    return;
  }
  if (side == &call.b) {
    send_next(&call.b);
  } else if (call.b.received < call.messages) {
    send_next(&call.a);
  }
}

static void introduce(Side* from, Side* to) {
  gchar* user = NULL;
  gchar* password = NULL;
  nice_agent_get_local_credentials(from->agent, from->stream, &user, &password);
  nice_agent_set_remote_credentials(to->agent, to->stream, user, password);
  g_free(user);
  g_free(password);
  GSList* candidates = nice_agent_get_local_candidates(from->agent, from->stream, kComponent);
  int relayed = 0;
  for (GSList* item = candidates; item; item = item->next) {
    NiceCandidate* candidate = item->data;
    relayed += candidate->type == NICE_CANDIDATE_TYPE_RELAYED;
  }
  if (relayed == 0) {
    fail("no relayed candidate");
  } else if (nice_agent_set_remote_candidates(to->agent, to->stream, kComponent, candidates) < 1) {
    fail("nice_agent_set_remote_candidates");
  }
  g_slist_free_full(candidates, (GDestroyNotify)nice_candidate_free);
}

static void on_gathered(NiceAgent* agent, guint stream, gpointer user) {
  (void)agent;
  (void)stream;
  ((Side*)user)->gathered = TRUE;
  if (call.a.gathered && call.b.gathered && !call.introduced) {
    call.introduced = TRUE;
    introduce(&call.a, &call.b);
    if (!call.failed) introduce(&call.b, &call.a);
  }
}

static void on_state(NiceAgent* agent, guint stream, guint component, guint state, gpointer user) {
  (void)agent;
  (void)stream;
  (void)component;
  Side* side = user;
  if (state == NICE_COMPONENT_STATE_FAILED) fail("connectivity checks failed");
  if (state != NICE_COMPONENT_STATE_READY || side->ready) return;
  side->ready = TRUE;
  if (call.a.ready && call.b.ready) send_next(&call.a);
}

static gboolean on_timeout(gpointer user) {
  (void)user;
  fail("timed out");
  return G_SOURCE_REMOVE;
}

static void open_side(Side* side, const char* name, gboolean controlling, char** arguments) {
  side->name = name;
  side->agent = nice_agent_new(g_main_loop_get_context(call.loop), NICE_COMPATIBILITY_RFC5245);
  g_object_set(side->agent, "controlling-mode", controlling, "force-relay", TRUE, "upnp", FALSE,
               "ice-tcp", FALSE, NULL);
  // Loopback is left out of libnice's own list of addresses; the test runs on it.
  NiceAddress local;
  nice_address_init(&local);
  if (!nice_address_set_from_string(&local, arguments[1]) ||
      !nice_agent_add_local_address(side->agent, &local)) {
    fail("local address");
  }
  side->stream = nice_agent_add_stream(side->agent, 1);
  nice_agent_set_relay_info(side->agent, side->stream, kComponent, arguments[1],
                            (guint)atoi(arguments[2]), arguments[3], arguments[4],
                            NICE_RELAY_TYPE_TURN_UDP);
  g_signal_connect(side->agent, "candidate-gathering-done", G_CALLBACK(on_gathered), side);
  g_signal_connect(side->agent, "component-state-changed", G_CALLBACK(on_state), side);
  nice_agent_attach_recv(side->agent, side->stream, kComponent,
                         g_main_loop_get_context(call.loop), on_receive, side);
}

static void print_pair(Side* side) {
  NiceCandidate* local = NULL;
  NiceCandidate* remote = NULL;
  if (!nice_agent_get_selected_pair(side->agent, side->stream, kComponent, &local, &remote)) {
    fail("no selected pair");
    return;
  }
  printf("pair %s %s\n", local->type == NICE_CANDIDATE_TYPE_RELAYED ? "relay" : "other",
         remote->type == NICE_CANDIDATE_TYPE_RELAYED ? "relay" : "other");
}

int main(int count, char** arguments) {
  if (count != 6) {
    fprintf(stderr, "usage: agents ADDRESS PORT USER PASSWORD MESSAGES\n");
    return 2;
  }
  call.loop = g_main_loop_new(NULL, FALSE);
  call.messages = atoi(arguments[5]);
  open_side(&call.a, "a", TRUE, arguments);
  open_side(&call.b, "b", FALSE, arguments);
  if (!nice_agent_gather_candidates(call.a.agent, call.a.stream) ||
      !nice_agent_gather_candidates(call.b.agent, call.b.stream)) {
    fail("gathering");
  }
  g_timeout_add_seconds(kTimeoutSeconds, on_timeout, NULL);
  if (!call.failed) g_main_loop_run(call.loop);
  if (!call.failed) print_pair(&call.a);
  if (!call.failed) print_pair(&call.b);
  if (!call.failed) printf("exchanged %d each way\n", call.messages);
  g_object_unref(call.a.agent);
  g_object_unref(call.b.agent);
  g_main_loop_unref(call.loop);
  return call.failed ? 1 : 0;
}
