defmodule Leash.Test.Carrier do
  @moduledoc """
  Tells which processes belong to a tree, by a thing that they inherit and the library does not
  use. This is a control group if one can be made, and otherwise a pipe that every process of the
  tree keeps open.

  A process that reads `enter/1` as shell code is in, and so is every process that it starts from
  then on.
  """

  alias Leash.Test.{Name, Observer}

  @enforce_keys [:kind, :path]
  defstruct [:kind, :path]

  @type t :: %__MODULE__{kind: :cgroup | :pipe, path: String.t()}

  # The pipe's number in the processes of the tree. No program uses this number by accident.
  @fd 9

  @doc "Makes a new carrier, below `parent` if that is a control group."
  @spec new(t() | nil) :: t()
  def new(parent \\ nil) do
    name = name()

    case Enum.find_value(roots(parent), &cgroup(Path.join(&1, name))) do
      nil -> pipe(name)
      path -> %__MODULE__{kind: :cgroup, path: path}
    end
  end

  @doc "Makes a carrier that is always a pipe."
  @spec pipe() :: t()
  def pipe, do: pipe(name())

  defp name, do: Name.unique("leash-test")

  defp roots(%__MODULE__{kind: :cgroup, path: path}), do: [path]

  defp roots(_no_cgroup) do
    # LEASH_TEST_CARRIER=pipe tests a machine on which no control group can be made.
    if System.get_env("LEASH_TEST_CARRIER") == "pipe", do: [], else: suite_root() ++ hierarchies()
  end

  defp suite_root, do: List.wrap(:persistent_term.get({__MODULE__, :root}, nil))

  # Version 2 comes first. Of version 1, only hierarchies that put no limit on a process that
  # joins.
  defp hierarchies do
    Enum.filter(
      ~w(/sys/fs/cgroup/unified /sys/fs/cgroup /sys/fs/cgroup/freezer /sys/fs/cgroup/pids),
      &File.exists?(Path.join(&1, "cgroup.procs"))
    )
  end

  @doc "Removes the empty groups of suites that were killed."
  @spec remove_stale() :: :ok
  def remove_stale do
    for root <- hierarchies(),
        path <- Path.wildcard(Path.join(root, "leash-test-*")),
        Name.stale?(path),
        do: Enum.each(groups_below(path) ++ [path], &File.rmdir/1)

    :ok
  end

  @doc "Makes new carriers below this one from now on."
  @spec nest(t()) :: :ok
  def nest(%__MODULE__{kind: :cgroup, path: path}),
    do: :persistent_term.put({__MODULE__, :root}, path)

  def nest(_pipe), do: :ok

  # Some hierarchies allow a new directory but let no process enter it.
  defp cgroup(path) do
    with :ok <- File.mkdir(path) do
      {_output, status} =
        System.cmd("sh", ["-c", "echo $$ > #{path}/cgroup.procs"], stderr_to_stdout: true)

      if status == 0 do
        path
      else
        _ = File.rmdir(path)
        nil
      end
    else
      {:error, _not_here} -> nil
    end
  end

  defp pipe(name) do
    path = Path.join(System.tmp_dir!(), name)
    {_output, 0} = System.cmd("mkfifo", [path])
    %__MODULE__{kind: :pipe, path: path}
  end

  @doc "Returns shell code that puts the shell in."
  @spec enter(t()) :: String.t()
  def enter(%{kind: :cgroup, path: path}), do: "echo $$ > #{path}/cgroup.procs; "
  # Opens the pipe for reading and writing, so that the open does not wait for the other end.
  def enter(%{kind: :pipe, path: path}), do: "exec #{@fd}<>#{path}; "

  # So many looks may find only processes that were gone at the second glance. More of them are a
  # mistake.
  @looks 1_000

  @doc """
  Returns the living processes in the carrier.

  In a chain, each process starts the next and exits. It can be gone from every number that a look
  has just read. Therefore only the kernel's word counts that no process is in.
  """
  @spec members(t()) :: [Observer.identity()]
  def members(carrier), do: members(carrier, @looks)

  defp members(carrier, looks) do
    living =
      for pid <- numbers(carrier),
          identity = Observer.identity(pid),
          Observer.alive?(identity),
          do: identity

    cond do
      living != [] or empty?(carrier) -> living
      looks > 0 -> members(carrier, looks - 1)
      true -> raise "#{carrier.path} is not empty, and nobody in it can be seen"
    end
  end

  # A control group lists processes in the order in which they joined. A process that starts the
  # next comes before it.
  defp empty?(%{kind: :cgroup} = carrier), do: numbers(carrier) == []

  # ENXIO: no process has it open (fifo(7)).
  defp empty?(%{kind: :pipe, path: path}) do
    arguments = ["if=/dev/null", "of=#{path}", "oflag=nonblock", "conv=nocreat,notrunc"]
    {_output, status} = System.cmd("dd", arguments, stderr_to_stdout: true)
    status != 0
  end

  defp numbers(%{kind: :cgroup, path: path}) do
    own =
      case File.read(Path.join(path, "cgroup.procs")) do
        {:ok, text} -> text |> String.split() |> Enum.map(&String.to_integer/1)
        {:error, _removed} -> []
      end

    below = for group <- groups_below(path), do: numbers(%{kind: :cgroup, path: group})
    List.flatten([own | below])
  end

  defp numbers(%{kind: :pipe, path: path}) do
    for name <- File.ls!("/proc"),
        {pid, ""} <- [Integer.parse(name)],
        holds?("/proc/#{pid}", path) or (Observer.state(pid) == "Z" and thread_holds?(pid, path)),
        do: pid
  end

  defp holds?(process, path), do: File.read_link("#{process}/fd/#{@fd}") == {:ok, path}

  # A process whose main thread has ended shows its descriptors only with its other threads.
  defp thread_holds?(pid, path) do
    case File.ls("/proc/#{pid}/task") do
      {:ok, threads} -> Enum.any?(threads, &holds?("/proc/#{pid}/task/#{&1}", path))
      {:error, _gone} -> false
    end
  end

  defp groups_below(path) do
    case File.ls(path) do
      {:ok, names} -> names |> Enum.map(&Path.join(path, &1)) |> Enum.filter(&File.dir?/1)
      {:error, _removed} -> []
    end
  end

  @doc """
  Ends the processes in the carrier, which only the tests can have started, and removes the
  carrier.
  """
  @spec clear(t()) :: :ok
  def clear(carrier) do
    Observer.eventually(5_000, fn ->
      carrier |> members() |> Observer.signal_all("KILL")
      members(carrier) == []
    end)

    remove(carrier)
  end

  defp remove(%{kind: :pipe, path: path}) do
    File.rm(path)
    :ok
  end

  defp remove(%{kind: :cgroup, path: path}) do
    Enum.each(groups_below(path), &remove(%{kind: :cgroup, path: &1}))
    # A zombie that its parent has not reaped yet still keeps the group busy.
    Observer.eventually(1_000, fn -> File.rmdir(path) in [:ok, {:error, :enoent}] end)
    :ok
  end
end
