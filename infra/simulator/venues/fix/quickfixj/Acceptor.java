// A QuickFIX/J acceptor that serves market data as it is told on its standard input, to prove our FIX feed against an
// engine that is not ours. Numbers, heartbeats, resends and the checks of what comes are QuickFIX/J's own.
//
// It takes one session of FIX.4.4 and one of FIXT.1.1 (5.0SP2), each on a free port. Every line, in and out, begins with
// the BeginString. Output: `PORT n`, `LOGON`, `LOGOUT`, `GOT <message>` for each that comes, `SENT <message>` for each that
// goes out, with | for the delimiter. Input:
//   send <type> <tag=value|...>   a message; what follows `group=<count tag>` is its group, by first tag
//   test                          a TestRequest
//   skip <n>                      number the next message n higher: a gap that nothing fills
//   forget                        keep nothing of what was sent
//   hangup                        end the connection without a word
// It ends when its input does.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

import quickfix.Acceptor;
import quickfix.Application;
import quickfix.DefaultMessageFactory;
import quickfix.DoNotSend;
import quickfix.FieldNotFound;
import quickfix.Group;
import quickfix.MemoryStoreFactory;
import quickfix.Message;
import quickfix.RejectLogon;
import quickfix.Session;
import quickfix.SessionID;
import quickfix.SessionSettings;
import quickfix.SocketAcceptor;
import quickfix.UnsupportedMessageType;

class Market implements Application {
    static final String PASSWORD = "secret";

    static synchronized void say(SessionID id, String what) {
        System.out.println(id.getBeginString() + " " + what.replace('\u0001', '|'));
        System.out.flush();
    }

    @Override
    public void onCreate(SessionID id) {
    }

    @Override
    public void onLogon(SessionID id) {
        say(id, "LOGON");
    }

    @Override
    public void onLogout(SessionID id) {
        say(id, "LOGOUT");
    }

    @Override
    public void toAdmin(Message message, SessionID id) {
        say(id, "SENT " + message);
    }

    @Override
    public void fromAdmin(Message message, SessionID id) throws FieldNotFound, RejectLogon {
        say(id, "GOT " + message);
        if (message.getHeader().getString(35).equals("A") && !message.getString(554).equals(PASSWORD)) {
            throw new RejectLogon("wrong password");
        }
    }

    @Override
    public void toApp(Message message, SessionID id) throws DoNotSend {
        say(id, "SENT " + message);
    }

    @Override
    public void fromApp(Message message, SessionID id) throws FieldNotFound, UnsupportedMessageType {
        say(id, "GOT " + message);
        if (!message.getHeader().getString(35).equals("V")) {
            throw new UnsupportedMessageType();
        }
    }
}

class Main {
    static Message build(String type, String text) {
        Message message = new Message();
        message.getHeader().setString(35, type);
        int count = 0;
        List<String[]> fields = new ArrayList<>();
        for (String field : text.split("\\|")) {
            String[] parts = field.split("=", 2);
            if (parts[0].equals("group")) {
                count = Integer.parseInt(parts[1]);
            } else if (count == 0) {
                message.setString(Integer.parseInt(parts[0]), parts[1]);
            } else {
                fields.add(parts);
            }
        }
        Group group = null;
        int[] order = fields.stream().mapToInt(parts -> Integer.parseInt(parts[0])).distinct().toArray();
        for (String[] parts : fields) {
            int tag = Integer.parseInt(parts[0]);
            if (tag == order[0]) {
                if (group != null) {
                    message.addGroup(group);
                }
                group = new Group(count, order[0], order);
            }
            group.setString(tag, parts[1]);
        }
        if (group != null) {
            message.addGroup(group);
        }
        return message;
    }

    static int freePort() throws Exception {
        try (ServerSocket socket = new ServerSocket(0)) {
            return socket.getLocalPort();
        }
    }

    static SessionID add(SessionSettings settings, String begin, int port) {
        SessionID id = new SessionID(begin, "THEM", "US");
        settings.setString(id, "BeginString", begin);
        settings.setString(id, "SenderCompID", "THEM");
        settings.setString(id, "TargetCompID", "US");
        settings.setLong(id, "SocketAcceptPort", port);
        if (begin.equals("FIXT.1.1")) {
            settings.setString(id, "DefaultApplVerID", "FIX.5.0SP2");
            settings.setString(id, "TransportDataDictionary", "FIXT11.xml");
            settings.setString(id, "AppDataDictionary", "FIX50SP2.xml");
        } else {
            settings.setString(id, "DataDictionary", "FIX44.xml");
        }
        return id;
    }

    static void perform(SessionID id, String[] words) throws Exception {
        Session session = Session.lookupSession(id);
        switch (words[1]) {
            case "send" -> session.send(build(words[2], words[3]));
            case "test" -> session.generateTestRequest("are you there");
            case "skip" -> session.setNextSenderMsgSeqNum(session.getExpectedSenderNum() + Integer.parseInt(words[2]));
            case "forget" -> {
                int sender = session.getExpectedSenderNum();
                int target = session.getExpectedTargetNum();
                session.getStore().reset();
                session.setNextSenderMsgSeqNum(sender);
                session.setNextTargetMsgSeqNum(target);
            }
            case "hangup" -> session.disconnect("hangup", false);
            default -> Market.say(id, "WHAT " + String.join(" ", words));
        }
    }

    public static void main(String[] arguments) throws Exception {
        SessionSettings settings = new SessionSettings();
        settings.setString("ConnectionType", "acceptor");
        settings.setString("SocketAcceptAddress", "127.0.0.1");
        settings.setString("StartTime", "00:00:00");
        settings.setString("EndTime", "00:00:00");
        settings.setString("UseDataDictionary", "Y");
        settings.setLong("HeartBtInt", 30);
        Map<String, SessionID> sessions = new LinkedHashMap<>();
        Map<SessionID, Integer> ports = new LinkedHashMap<>();
        for (String begin : List.of("FIX.4.4", "FIXT.1.1")) {
            int port = freePort();
            SessionID id = add(settings, begin, port);
            sessions.put(begin, id);
            ports.put(id, port);
        }
        Acceptor acceptor = new SocketAcceptor(
            new Market(), new MemoryStoreFactory(), settings, null, new DefaultMessageFactory());
        acceptor.start();
        ports.forEach((id, port) -> Market.say(id, "PORT " + port));
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ", 4);
            perform(sessions.get(words[0]), words);
        }
        acceptor.stop(true);
    }
}
