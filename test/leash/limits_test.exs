defmodule Leash.LimitsTest do
  use Leash.Test.Case, async: false

  alias Leash.Limits

  @limits [
    open_files: 100,
    processes: 5_000,
    core: 0,
    file_size: 4_096,
    cpu_seconds: 3,
    address_space: 2_000_000_000,
    nice: 6
  ]

  @shown [
    {"Max open files", "100"},
    {"Max processes", "5000"},
    {"Max core file size", "0"},
    {"Max file size", "4096"},
    {"Max cpu time", "3"},
    {"Max address space", "2000000000"}
  ]

  defp assert_shown(text) do
    for {name, value} <- @shown do
      assert [_all, ^value, ^value] = Regex.run(~r/^#{name} +(\S+) +(\S+)/m, text)
    end
  end

  test "hold for a worker and what it starts, and not for the shim" do
    tree = start_tree({:sh, "sleep 60 & echo ready $$ $!; wait"}, limits: @limits)

    for {pid, _ticks} <- tree.tree do
      assert_shown(File.read!("/proc/#{pid}/limits"))
      assert {"6\n", 0} = System.cmd("sh", ["-c", "ps -o ni= -p #{pid} | tr -d ' '"])
    end

    {shim, _ticks} = tree.shim
    refute File.read!("/proc/#{shim}/limits") =~ ~r/^Max open files +100 /m
    assert {:ok, _exit} = Worker.stop(tree.worker)
    assert_gone(tree)
  end

  test "hold for commands, streams and ports" do
    show = ["/proc/self/limits"]
    assert {text, 0} = Leash.cmd("cat", show, limits: @limits)
    assert_shown(text)
    assert_shown(Leash.stream!("cat", show, limits: @limits) |> Enum.join())
    port = Leash.open_port("cat", show, [:binary, :exit_status, limits: @limits])
    assert_shown(output(port, ""))
  end

  defp output(port, text) do
    receive do
      {^port, {:data, more}} -> output(port, text <> more)
      {^port, {:exit_status, 0}} -> text
    end
  end

  test "are enforced by the kernel" do
    path = Path.join(tmp_dir!(), "big")
    line = "head -c 100000 /dev/zero >#{path}"

    # 128 + SIGXFSZ.
    assert {"", 153} = Leash.cmd(line, [], shell: true, stderr: :null, limits: [file_size: 4_096])

    assert File.stat!(path).size == 4_096
    busy = "while :; do :; done"
    assert {"", 137} = Leash.cmd(busy, [], shell: true, limits: [cpu_seconds: 1])
  end

  test "that cannot be set fail the start, and nothing is left" do
    carrier = new_carrier()
    options = command(:plain, carrier) ++ [limits: [open_files: 4_000_000_000]]
    assert {:error, {:limits, :eperm}} = Worker.start_link(options)
    assert_gone(carrier)

    error =
      assert_raise ErlangError, fn ->
        Leash.cmd("true", [], limits: [open_files: 4_000_000_000])
      end

    assert error.original == :eperm
    port = Leash.open_port("true", [], [:exit_status, limits: [open_files: 4_000_000_000]])
    assert_receive {^port, {:exit_status, 125}}, 5_000
  end

  test "mistakes are named" do
    for {bad, path, text} <- [
          {[open_files: -1], [:limits, :open_files], "a number from 0 to 2^64 - 2, got: -1"},
          {[open_files: "8"], [:limits, :open_files], "got: \"8\""},
          {[files: 8], [:limits, nil], "got: :files (did you mean :open_files?)"},
          {[nice: 20], [:limits, :nice], "an integer from -20 to 19, got: 20"},
          {[nice: 1, nice: 2], [:limits, :nice], "one value, and not several, got: [1, 2]"},
          {[core: 0x1_0000_0000_0000_0000], [:limits, :core], "got: 18446744073709551616"},
          {:none, [], "a keyword list of :open_files"},
          {%{core: 0}, [], "a keyword list of :open_files"}
        ] do
      assert %Leash.OptionsError{key: :limits, path: ^path} =
               error = catch_error(Worker.start_link(command: "true", limits: bad))

      assert Exception.message(error) =~ text
    end

    assert {:ok, %{limits: @limits}} = Worker.Options.validate(command: "true", limits: @limits)

    assert Limits.to_option(open_files: 1, nice: -1) == "NOFILE:1,NICE:-1"
  end
end
