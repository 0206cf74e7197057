defmodule Leash.Build.RecompileTest do
  # Serial: Mix in other VMs takes both cores, and tests that measure times run beside async ones.
  use ExUnit.Case, async: false

  @moduletag :slow

  alias Leash.Build.Sandbox

  @moduletag :build
  @moduletag :tmp_dir
  @moduletag timeout: 120_000

  # Prints the shim's pid, waits for a line, then uses the NIF and the shim in every way again.
  @program """
  {:ok, first} = Leash.Worker.start_link(command: "sleep", args: ["60"])
  IO.puts("SHIM \#{Leash.Worker.shim_pid(first)} \#{Leash.Worker.os_pid(first)}")
  IO.read(:line)
  {:ok, second} = Leash.Worker.start_link(command: "sleep", args: ["61"])
  {:ok, %Leash.Exit{}} = Leash.Worker.stop(second)
  {:ok, %Leash.Exit{}} = Leash.Worker.stop(first)
  IO.puts("UNHARMED")
  """

  test "a recompile while workers run leaves the VM and its shims unharmed", %{tmp_dir: tmp} do
    Sandbox.copy!(tmp)
    run_dir = Path.join(tmp, "runs")
    env = [{"LEASH_RUN_DIR", run_dir} | Sandbox.stub_cargo!(tmp, Sandbox.artefacts())]
    Sandbox.mix!(tmp, ["compile"], env)
    installed = Path.join(tmp, "_build/prod/lib/leash/priv")
    before = inodes(installed)

    vm = start_vm(tmp, env)
    assert_receive {^vm, {:data, {:eol, "SHIM " <> pids}}}, 30_000
    pids = Enum.map(String.split(pids), &String.to_integer/1)
    assert Enum.all?(pids, &alive?/1)

    # Adds bytes at the end of each file: both still work, and both differ from before.
    for name <- ~w(libleash_nif.so leash-shim) do
      File.write!(Path.join([tmp, "stub-bin", name]), String.duplicate("\0", 64), [:append])
    end

    File.write!(Sandbox.source(tmp), "//! Another source.\n")
    Sandbox.mix!(tmp, ["compile"], env)
    assert Enum.all?(Enum.zip(before, inodes(installed)), fn {old, new} -> old != new end)

    assert Enum.all?(pids, &alive?/1)
    Port.command(vm, "go on\n")
    assert_receive {^vm, {:data, {:eol, "UNHARMED"}}}, 30_000
    assert_receive {^vm, {:exit_status, 0}}, 30_000
    refute Enum.any?(pids, &alive?/1)
  end

  defp start_vm(tmp, env) do
    script = Path.join(tmp, "program.exs")
    File.write!(script, @program)
    env = [{"MIX_ENV", "prod"}, {"MIX_BUILD_PATH", nil}, {"LEASH_PREBUILT", nil} | env]

    Port.open({:spawn_executable, System.find_executable("mix")}, [
      :binary,
      :exit_status,
      {:line, 1_000},
      {:cd, tmp},
      {:args, ["run", "--no-compile", script]},
      {:env,
       for({name, value} <- env, do: {to_charlist(name), (value && to_charlist(value)) || false})}
    ])
  end

  defp inodes(directory) do
    for name <- ~w(leash_nif.so leash-shim), do: File.stat!(Path.join(directory, name)).inode
  end

  defp alive?(pid), do: File.exists?("/proc/#{pid}")
end
