defmodule Leash.Test.Suite do
  @moduledoc """
  Checks that no process of the tests is left after the suite. It counts by a carrier that the
  library does not use: the whole suite runs in a control group.

  If no control group can be made, a variable in the environment takes its place. A process
  without its environment counts if it has a mark or runs a fixture, and was not there before.
  """

  alias Leash.Test.{Carrier, Observer, Tag}

  @variable "LEASH_TEST_SUITE"

  @key {__MODULE__, :state}

  # The VM's own helpers, and processes that tools leave running on purpose.
  @kept ["erl_child_setup", "inet_gethost", "epmd", "sccache"]

  @doc "Puts the suite in its carrier. The call comes before the first test."
  @spec enter() :: :ok
  def enter do
    Carrier.remove_stale()
    System.put_env(@variable, System.pid())
    carrier = Carrier.new()
    home = if carrier.kind == :cgroup, do: move_in(carrier), else: nil
    :persistent_term.put(@key, %{carrier: carrier, home: home, before: Observer.all()})
    Carrier.nest(carrier)
  end

  # The VM and its fork server. All other processes of the suite descend from them.
  defp move_in(carrier) do
    own = String.to_integer(System.pid())
    home = home(carrier.path)
    helpers = for pid <- children(own), do: pid
    for pid <- [own | helpers], do: move(pid, carrier.path)
    home
  end

  defp children(own),
    do: for({pid, _ticks} <- Observer.all(), Observer.parent(pid) == own, do: pid)

  defp move(pid, group), do: File.write(Path.join(group, "cgroup.procs"), "#{pid}")

  # The group of this VM before, in the hierarchy to which the group belongs.
  defp home(group) do
    root = Path.dirname(group)

    name =
      case Path.basename(root) do
        name when name in ["unified", "cgroup"] -> ""
        controller -> controller
      end

    "/proc/self/cgroup"
    |> File.read!()
    |> String.split("\n", trim: true)
    |> Enum.map(&String.split(&1, ":", parts: 3))
    |> Enum.find_value(root, fn [_id, controllers, path] ->
      if controllers == name, do: Path.join(root, path)
    end)
  end

  @doc "Returns the means that count the suite, for the first line of its output."
  @spec describe() :: String.t()
  def describe do
    case :persistent_term.get(@key).carrier do
      %{kind: :cgroup, path: path} -> "control groups below #{path}"
      %{kind: :pipe} -> "inherited pipes, since no control group can be made here"
    end
  end

  @doc "Names what is left, and ends the run with status 1 if anything is."
  @spec check!() :: :ok
  def check! do
    state = :persistent_term.get(@key)
    Observer.eventually(5_000, fn -> left(state) == [] end)
    left = state |> left() |> Enum.map(&Observer.describe/1)
    leave(state)

    if left != [] do
      IO.puts(:stderr, Enum.join(["\nProcesses of the tests are left:" | left], "\n  "))
      System.halt(1)
    end

    IO.puts("Nothing is left of the tests (#{state.carrier.kind}).")
  end

  defp left(%{carrier: %{kind: :cgroup} = carrier}),
    do: carrier |> Carrier.members() |> Enum.reject(&ours?/1)

  defp left(%{carrier: %{kind: :pipe}, before: before}) do
    for {pid, _ticks} = identity <- Observer.all() -- before,
        not ours?(identity),
        of_suite?(File.read("/proc/#{pid}/environ"), pid),
        do: identity
  end

  defp of_suite?({:ok, ""}, pid), do: Tag.marked_run(pid) != nil or fixture?(pid)

  defp of_suite?({:ok, environ}, _pid),
    do: "#{@variable}=#{System.pid()}" in String.split(environ, <<0>>)

  defp of_suite?({:error, _hidden}, _pid), do: false

  defp fixture?(pid), do: Enum.any?(Observer.argv(pid), &String.contains?(&1, "test/fixtures/"))

  defp ours?({pid, _ticks}) do
    argv = Observer.argv(pid)
    name = argv |> hd_or("") |> Path.basename()

    "#{pid}" == System.pid() or own_warden?(argv) or
      Enum.any?(@kept, &String.starts_with?(name, &1))
  end

  # The warden of the application in this VM, which is still up.
  defp own_warden?([_shim, _run_id, "--warden" | options]),
    do: Enum.any?(options, &String.starts_with?(&1, "--owner=#{System.pid()}:"))

  defp own_warden?(_argv), do: false

  defp hd_or([], default), do: default
  defp hd_or([first | _], _default), do: first

  defp leave(%{carrier: carrier, home: home}) do
    if home do
      for {pid, _ticks} = identity <- Carrier.members(carrier),
          ours?(identity),
          do: move(pid, home)
    end

    Carrier.clear(carrier)
  end
end
