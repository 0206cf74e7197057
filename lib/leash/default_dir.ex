defmodule Leash.DefaultDir do
  # The run directory if none is configured: `/tmp/leash-<uid>`.
  #
  # Any user can make a directory of that name in /tmp. If it is not ours, then another one is
  # taken. Every later start and the command (native/cli/src/run_dir_location.rs) find the same
  # one, in this order:
  #
  #     leash-<uid>      if it is a directory of ours, with any mode
  #     leash-<uid>.*    the first one that is a directory of ours with mode 0700
  #     leash-<uid>      if it does not exist
  #     leash-<uid>.<n>  the first of a few that does not exist
  #     leash-<uid>.<random>
  #
  # This module only chooses a name. The code that opens the directory makes it with mode 0700 and
  # checks what it has opened.
  @moduledoc false

  import Bitwise

  @numbered 1..8

  @doc "Returns the path below a directory such as `/tmp`, for a user's number. Makes nothing."
  @spec path(String.t(), non_neg_integer()) :: String.t()
  def path(parent, uid) do
    name = "leash-#{uid}"
    first = Path.join(parent, name)

    case File.lstat(first) do
      {:ok, %{type: :directory, uid: ^uid}} ->
        first

      {:error, :enoent} ->
        taken(parent, name, uid) || first

      {:error, _unreadable} ->
        first

      {:ok, _not_ours} ->
        taken(parent, name, uid) || free(first) || first <> "." <> Leash.RunId.generate()
    end
  end

  defp taken(parent, name, uid) do
    with {:ok, names} <- File.ls(parent) do
      names
      |> Enum.filter(&String.starts_with?(&1, name <> "."))
      |> Enum.sort()
      |> Enum.map(&Path.join(parent, &1))
      |> Enum.find(&private?(&1, uid))
    else
      {:error, _reason} -> nil
    end
  end

  defp private?(path, uid) do
    case File.lstat(path) do
      {:ok, %{type: :directory, uid: ^uid, mode: mode}} -> (mode &&& 0o077) == 0
      _other -> false
    end
  end

  # Two starts at the same time must take the same one.
  defp free(first) do
    paths = for n <- @numbered, do: "#{first}.#{n}"
    Enum.find(paths, &(File.lstat(&1) == {:error, :enoent}))
  end
end
