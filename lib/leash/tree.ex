defmodule Leash.Tree do
  @moduledoc """
  One worker with the processes of its tree.

  `Leash.list/1` lists all workers without the single processes. `Leash.tree/1` draws them.
  """

  alias Leash.{Listing, Registry, Usage}

  @typedoc """
  A process of a worker's tree.

  `:rss` is bytes of memory, `:cpu` milliseconds of CPU time, `:age` milliseconds. `:parent` is
  another process of the tree, the shim, or the process that adopted it. `:state` is the letter of
  proc_pid_stat(5).
  """
  @type member :: %{
          os_pid: pos_integer(),
          parent: pos_integer() | nil,
          state: String.t(),
          command: String.t(),
          rss: non_neg_integer(),
          cpu: non_neg_integer(),
          age: non_neg_integer()
        }

  @doc """
  Returns one worker as in `Leash.list/1`, with the processes of its tree as `:members`.

  The argument is the worker's process, its registered name or its number. If there is no such
  worker (any more), then the call returns nil. It asks the process table and not the worker, so a
  worker that hangs does not block it. If `/proc` cannot be read, then `:members` is nil.
  """
  @spec info(pid() | GenServer.name() | pos_integer()) ::
          %{
            required(:members) => [member()] | nil,
            required(:worker) => pos_integer(),
            optional(atom()) => term()
          }
          | nil
  def info(worker) do
    # A second worker may have the name: its process is gone, and its tree is being looked for.
    case Registry.living(:all)
         |> Enum.filter(&Listing.same?(&1, worker))
         |> Enum.max_by(& &1.began, fn -> nil end) do
      nil -> nil
      row -> members(row)
    end
  end

  defp members(row) do
    case Usage.members([row]) do
      {:ok, members} ->
        members = Map.get(members, row.number, [])
        [listed] = Listing.listed([row], {:ok, %{row.number => Usage.sum(members)}})
        Map.put(listed, :members, members)

      :error ->
        [listed] = Listing.listed([row], :error)
        Map.put(listed, :members, nil)
    end
  end
end
