defmodule Leash.OpenPort.Pid1Test do
  @moduledoc """
  A VM that is pid 1 of its namespace, as in most containers. Its SIGTERM has to take effect.
  """

  use Leash.Test.Case, async: true

  @tag needs: :pid_namespace
  @tag :slow
  test "the ladder of a Worker and of a port begins with its own signal" do
    vm = start_vm([], prefix: "unshare --pid --fork --kill-child --mount-proc")

    code = """
    {:ok, worker} = Leash.Worker.start_link(command: "sleep", args: ["60"], stop: [sigterm: 2_000])
    {:ok, exit} = Leash.Worker.stop(worker)
    {System.pid(), exit.cause, exit.signal}
    """

    assert VM.eval(vm, code) == {"1", :stop, :sigterm}
    path = Path.join(tmp_dir!(), "asked")

    code = """
    line = "trap 'echo asked > #{path}; exit' TERM; echo ready; while :; do sleep 0.05; done"
    port = Leash.open_port("sh", ["-c", line], [:binary, stop: [sigterm: 2_000]])
    receive do {^port, {:data, "ready" <> _}} -> :ok end
    Port.command(port, :binary.copy("x", 300_000), [:nosuspend])
    Port.close(port)
    """

    assert VM.eval(vm, code)
    assert_eventually(fn -> VM.eval(vm, "Leash.list()") == [] end)
    assert File.read(path) == {:ok, "asked\n"}
  end
end
