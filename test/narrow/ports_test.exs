defmodule Leash.Narrow.PortsTest do
  @moduledoc """
  A worker's port is one of few that the kernel takes for connections. No probe takes itself for
  the worker.
  """

  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Test.Narrow

  @moduletag needs: :network

  # The kernel takes even ports first.
  @port 40_010

  setup do
    # Within a few questions a probe meets the port as its own source.
    range = "echo 40000 40031 >/proc/sys/net/ipv4/ip_local_port_range"
    %{vm: start_vm([], prefix: Narrow.network([range]))}
  end

  test "a port without a server is neither ready nor in use", %{vm: vm} do
    for ready <- [{:tcp, @port}, {:http, @port}, {:http, "http://localhost:#{@port}/"}] do
      options = [command: "sleep", args: ["60"], ready: ready, ready_timeout: 1_500]
      code = "Leash.Worker.start_link(#{inspect(options)})"
      assert VM.eval(vm, "Process.flag(:trap_exit, true); " <> code) == {:error, :ready_timeout}
    end
  end

  test "a server that listens late gets its port, and is unhealthy without it", %{vm: vm} do
    server = """
    import socket, time
    time.sleep(0.7)
    s = socket.socket()
    s.bind(("127.0.0.1", #{@port}))
    s.listen()
    time.sleep(0.7)
    s.close()
    time.sleep(60)
    """

    options = [
      command: "python3",
      args: ["-c", server],
      ready: {:tcp, @port},
      ready_timeout: 20_000,
      health: [check: {:tcp, @port}, every: 50, failures: 20]
    ]

    code = """
    Process.flag(:trap_exit, true)
    {:ok, worker} = Leash.Worker.start_link(#{inspect(options)})
    receive do {:EXIT, ^worker, reason} -> reason after 20_000 -> :healthy end
    """

    assert VM.eval(vm, code) == {:unhealthy, :econnrefused}
  end
end
