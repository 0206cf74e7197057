defmodule Leash.Probe.SocketTest do
  use Leash.Test.Case, async: false

  alias Leash.Test.{Ports, Python}

  # Listens on a Unix socket, and closes it when its stdin ends.
  @server """
  import os, socket, sys
  server = socket.socket(socket.AF_UNIX)
  server.bind(sys.argv[1])
  server.listen(16)
  sys.stdin.read()
  server.close()
  import time
  time.sleep(60)
  """

  setup do
    nothing_is_listed_after()
    %{decoy: start_decoy("beside the sockets"), path: Path.join(tmp_dir!(), "socket")}
  end

  defp server(path), do: [command: Python.path(), args: ["-E", "-s", "-S", "-c", @server, path]]

  test "a worker is ready when its Unix socket accepts, and ends when it no longer does", %{
    path: path,
    decoy: decoy
  } do
    health = [check: {:unix, path}, every: 20, failures: 2]
    options = [ready: {:unix, path}, health: health, stdin: :pipe]
    {:ok, worker} = Worker.start_link(server(path) ++ options)
    os = Observer.identity(Worker.os_pid(worker))
    :ok = Worker.close_stdin(worker)
    assert_receive {:EXIT, ^worker, {:unhealthy, :econnrefused}}, 5_000
    refute Observer.alive?(os)
    assert_unharmed(decoy)
  end

  test "a socket that another process listens on is refused, and a dead one is not", %{
    path: path
  } do
    {:ok, listener} = :gen_tcp.listen(0, ifaddr: {:local, path})
    options = [command: "sleep", args: ["60"], ready: {:unix, path}, ready_timeout: 100]
    assert Worker.start_link(options) == {:error, {:port_in_use, path}}
    assert Leash.Error.format({:port_in_use, path}) =~ "listens on " <> path
    :ok = :gen_tcp.close(listener)
    assert Worker.start_link(options) == {:error, :ready_timeout}
  end

  test "a worker is asked at a host and a port, and any success of GET is one" do
    for {words, status} <- [{[:status, 204], :ready}, {[:status, 299], :ready}] do
      port = Ports.free()
      carrier = new_carrier()
      options = command({:sh, Ports.http(port, words)}, carrier)
      health = [check: {:tcp, {"127.0.0.1", port}}, every: 10, failures: 1]
      started = Worker.start_link(options ++ [ready: {:http, port}, health: health])
      assert {{:ok, worker}, :ready} = {started, status}
      assert {:ok, _exit} = Worker.stop(worker)
      {:ok, worker} = Worker.start_link(options ++ [ready: {:tcp, {"localhost", port}}])
      assert {:ok, _exit} = Worker.stop(worker)
      assert_gone(carrier)
    end
  end
end
